//! The display of the live view: redrawn in place on a terminal, otherwise a line every second.

use std::time::Duration;

use console::Term;

/// The display of the live view.
pub enum Screen {
    /// A terminal, and how many of its lines the next drawing replaces.
    Terminal(Term, usize),
    /// Any other output, or a terminal with `--plain`.
    Lines,
}

impl Screen {
    /// The standard output.
    pub fn new(plain: bool) -> Self {
        let terminal = Term::stdout();
        if plain || !terminal.is_term() { Self::Lines } else { Self::Terminal(terminal, 0) }
    }

    /// How long to wait between two drawings.
    pub fn period(&self) -> Duration {
        match self {
            Self::Terminal(..) => Duration::from_millis(250),
            Self::Lines => Duration::from_secs(1),
        }
    }

    /// Draws `picture` over the last one on a terminal, otherwise prints `line`.
    pub fn show(&mut self, picture: impl FnOnce() -> String, line: impl FnOnce() -> String) {
        match self {
            Self::Terminal(terminal, drawn) => {
                let text = picture();
                // A failure to draw need not end the demo.
                let _ = terminal.clear_last_lines(*drawn);
                let _ = terminal.write_line(&text);
                *drawn = text.lines().count();
            }
            Self::Lines => println!("{}", line()),
        }
    }
}

/// A bar of `width` characters, filled to `share`, which is clamped to 0..=1.
pub fn bar(share: f64, width: usize) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to width"
    )]
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    "#".repeat(full) + &"-".repeat(width.saturating_sub(full))
}
