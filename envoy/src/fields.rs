//! Header fields that wait for an answer.

/// Names, and values that stand in one text: two pieces of memory for all of them, which serve one stream after another.
#[derive(Default)]
pub struct Fields {
    names: Vec<(&'static str, usize)>,
    text: String,
}

impl Fields {
    /// Adds a field.
    pub fn push(&mut self, name: &'static str, value: &str) {
        self.text.push_str(value);
        self.names.push((name, self.text.len()));
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mut begin = 0;
        self.names.iter().map(move |&(name, end)| {
            let value = self.text.get(begin..end).unwrap_or_default();
            begin = end;
            (name, value)
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Drops the fields, but not their memory.
    pub fn clear(&mut self) {
        self.names.clear();
        self.text.clear();
    }
}
