//! Every traffic router.
