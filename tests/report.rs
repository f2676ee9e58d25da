//! `report`: the chain, the renderers, the schemas, the binary.

mod chain;
mod pages;
mod samples;
mod schemas;
pub(crate) mod texts;
