//! Every source of figures that a judgement may use.
