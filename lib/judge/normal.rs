//! The standard normal distribution.

/// The probability that a standard normal variable exceeds `z`.
pub fn upper_tail(z: f64) -> f64 {
    (0.5 * libm::erfc(z / std::f64::consts::SQRT_2)).clamp(0.0, 1.0)
}

/// The value below which a share `p` in 0..1 lies.
pub fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0_f64, 40.0_f64);
    for _ in 0..200 {
        let middle = low.midpoint(high);
        if upper_tail(-middle) < p { low = middle } else { high = middle }
    }
    low.midpoint(high)
}
