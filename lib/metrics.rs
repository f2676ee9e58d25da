//! Every source of figures that a judgement may use.

pub mod probe;

/// One source of figures.
#[derive(Debug)]
pub struct Kind {
    /// Its name, as `source` in the documents has it.
    pub name: &'static str,
    /// What it measures, in one sentence.
    pub about: &'static str,
}

/// Every source of figures.
pub static ALL: &[&Kind] = &[&probe::KIND];
