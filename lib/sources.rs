//! Every kind of snapshot source.
