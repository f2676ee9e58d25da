//! Every output that a report may have: pure, evidence in, text out.
