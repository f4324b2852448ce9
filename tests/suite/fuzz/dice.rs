//! Random choices from a seed, and random mutations.

/// SplitMix64: each seed gives its own sequence.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }

    /// Any item of a list that is not empty.
    pub fn any<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// True with this chance in percent.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Random bytes, at most this many.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// Some of these texts, with separators between them.
    pub fn list(&mut self, of: &[&str], separator: &[&str], most: usize) -> Vec<u8> {
        let mut list = Vec::new();
        for item in 0..self.below(most + 1) {
            if item > 0 {
                list.extend_from_slice(self.pick(separator).as_bytes());
            }
            list.extend_from_slice(self.pick(of).as_bytes());
        }
        list
    }

    /// Changes a text in up to three places; `tokens` are the texts with a meaning in its format.
    pub fn mutate(&mut self, text: &mut Vec<u8>, tokens: &[&str]) {
        for _ in 0..self.below(4) {
            let at = self.below(text.len() + 1);
            let end = (at + self.below(8)).min(text.len());
            match self.below(7) {
                0 => text.truncate(at),
                1 => drop(text.drain(at..end)),
                2 => text.insert(at, self.next() as u8),
                3 => drop(text.splice(at..at, self.pick(tokens).bytes())),
                4 => drop(text.splice(at..end, self.pick(tokens).bytes())),
                5 => {
                    let again = text[at..end].to_vec();
                    text.splice(at..at, again);
                }
                _ => {
                    if let Some(byte) = text.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}
