//! An irreducible polynomial of degree 53 over GF(2): what restic's own chunker needs of a repository.
//!
//! Trapkey cuts elsewhere (any cut is valid), but restic shall be able to go on with the repository.
//! The test is Rabin's, "Probabilistic Algorithms in Finite Fields" (1980): for the prime degree 53,
//! `p` is irreducible when `x^(2^53) = x (mod p)` and `x^2 + x` has no factor in common with `p`.

use super::crypto;
use crate::fault::Fault;

const DEGREE: u32 = 53;

/// A random irreducible polynomial; bit `i` is the coefficient of `x^i`.
pub(super) fn random() -> Result<u64, Fault> {
    loop {
        let mut bytes = [0; 8];
        crypto::random(&mut bytes)?;
        let candidate = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if irreducible(candidate) {
            return Ok(candidate);
        }
    }
}

/// Whether a polynomial is of degree 53 and irreducible.
pub(super) fn irreducible(polynomial: u64) -> bool {
    if polynomial.checked_ilog2() != Some(DEGREE) {
        return false;
    }
    // x divides what has no constant term, x + 1 what has an even number of terms.
    if polynomial & 1 == 0 || polynomial.count_ones().is_multiple_of(2) {
        return false;
    }
    let mut power = 2;
    for _ in 0..DEGREE {
        power = square(power, polynomial);
    }
    power == 2
}

fn square(a: u64, modulus: u64) -> u64 {
    let mut wide = (0..=DEGREE).filter(|i| a >> i & 1 == 1).fold(0_u128, |sum, i| sum | 1 << (2 * i));
    while let Some(degree) = wide.checked_ilog2().filter(|degree| *degree >= DEGREE) {
        wide ^= u128::from(modulus) << (degree - DEGREE);
    }
    // What is left is of degree 52 at most.
    u64::try_from(wide).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_restic_made_and_refuses_products() {
        for good in [0x0032_89c8_0c13_0705, 0x0025_b468_838d_cb75] {
            assert!(irreducible(good), "{good:x}");
        }
        for bad in [0, 1, 0x0025_b468_838d_cb74, 0x0025_b468_838d_cb77, 1 << 53 | 1, 0x0065_b468_838d_cb75] {
            assert!(!irreducible(bad), "{bad:x}");
        }
        assert!(irreducible(random().unwrap()));
    }

    #[test]
    fn as_many_are_irreducible_as_there_have_to_be() {
        // One in 53 of all, all of those among the quarter with both end terms and an odd number of terms.
        let found = (0..4000_u64).filter(|i| irreducible(1 << 53 | i << 20 | 1)).count();
        assert!((40..250).contains(&found), "{found}");
    }
}
