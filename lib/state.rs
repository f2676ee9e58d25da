//! The promote state: compare-and-swap on a folder.
