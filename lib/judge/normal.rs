//! The standard normal distribution, to the last digits also far out in its tails.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// What `FRAC_1_SQRT_2` lacks of one over the root of two.
const FRAC_1_SQRT_2_REST: f64 = -4.833_646_656_726_457e-17;

/// The probability that a standard normal variable exceeds `z`.
pub fn upper_tail(z: f64) -> f64 {
    let at = z * FRAC_1_SQRT_2;
    if at.is_nan() || at.is_infinite() {
        return 0.5 * libm::erfc(z);
    }
    // Far out, the rounding of the product would count as often as the square of z.
    let rest = libm::fma(z, FRAC_1_SQRT_2, -at) + z * FRAC_1_SQRT_2_REST;
    let tail = libm::erfc(at) - rest * 2.0 / PI.sqrt() * (-at * at).exp();
    (0.5 * tail).clamp(0.0, 1.0)
}

/// The value that a standard normal variable stays below with probability `p`; minus infinity at 0,
/// infinity at 1, NaN outside. The value that it exceeds with probability `p` is `-quantile(p)`.
///
/// Source: Wichura, Applied Statistics 37 (1988), algorithm AS 241, and one step of Halley's method.
pub fn quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p > 0.5 {
        return -quantile_below(1.0 - p);
    }
    quantile_below(p)
}

/// For `p` up to a half.
fn quantile_below(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let z = first_guess(p);
    let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
    let step = (upper_tail(-z) - p) / density;
    if density > f64::MIN_POSITIVE { z - step / (1.0 + 0.5 * z * step) } else { z }
}

fn first_guess(p: f64) -> f64 {
    let from_middle = p - 0.5;
    if from_middle.abs() <= 0.425 {
        let r = 0.180_625 - from_middle * from_middle;
        return from_middle * polynomial(&A, r) / polynomial(&B, r);
    }
    let r = (-p.ln()).sqrt();
    if r <= 5.0 {
        -polynomial(&C, r - 1.6) / polynomial(&D, r - 1.6)
    } else {
        -polynomial(&E, r - 5.0) / polynomial(&F, r - 5.0)
    }
}

/// From the constant term up.
fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

const A: [f64; 8] = [
    3.387_132_872_796_366_5,
    133.141_667_891_784_38,
    1_971.590_950_306_551_3,
    13_731.693_765_509_46,
    45_921.953_931_549_87,
    67_265.770_927_008_7,
    33_430.575_583_588_13,
    2_509.080_928_730_122_7,
];
const B: [f64; 8] = [
    1.0,
    42.313_330_701_600_91,
    687.187_007_492_057_9,
    5_394.196_021_424_751,
    21_213.794_301_586_597,
    39_307.895_800_092_71,
    28_729.085_735_721_943,
    5_226.495_278_852_854,
];
const C: [f64; 8] = [
    1.423_437_110_749_683_5,
    4.630_337_846_156_546,
    5.769_497_221_460_691,
    3.647_848_324_763_204_5,
    1.270_458_252_452_368_4,
    0.241_780_725_177_450_6,
    0.022_723_844_989_269_184,
    7.745_450_142_783_414e-4,
];
const D: [f64; 8] = [
    1.0,
    2.053_191_626_637_759,
    1.676_384_830_183_803_8,
    0.689_767_334_985_1,
    0.148_103_976_427_480_08,
    0.015_198_666_563_616_457,
    5.475_938_084_995_345e-4,
    1.050_750_071_644_416_9e-9,
];
const E: [f64; 8] = [
    6.657_904_643_501_103,
    5.463_784_911_164_114,
    1.784_826_539_917_291_3,
    0.296_560_571_828_504_87,
    0.026_532_189_526_576_124,
    0.001_242_660_947_388_078_4,
    2.711_555_568_743_487_6e-5,
    2.010_334_399_292_288_1e-7,
];
const F: [f64; 8] = [
    1.0,
    0.599_832_206_555_888,
    0.136_929_880_922_735_8,
    0.014_875_361_290_850_615,
    7.868_691_311_456_133e-4,
    1.846_318_317_510_054_8e-5,
    1.421_511_758_316_446e-7,
    2.044_263_103_389_939_8e-15,
];
