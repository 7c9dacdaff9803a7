//! Padmé (spec 8): a padded length tells no more than the magnitude and a few leading bits of the true one.

/// The length that `n` is padded to [PAD-1]: `n` rounded up so that at most its highest `s` bits after the first vary.
pub(crate) fn padme(n: u64) -> Option<u64> {
    let Some(e) = n.checked_ilog2().filter(|e| *e > 0) else {
        return Some(n);
    };
    let s = e.ilog2().saturating_add(1);
    let multiple = 1u64 << e.saturating_sub(s);
    n.checked_next_multiple_of(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values worked out by hand from the formula of spec 8. Proves PAD-1.
    #[test]
    fn lengths_from_the_formula() {
        for (n, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (8, 8),
            (9, 10),
            (10, 10),
            (11, 12),
            (17, 18),
            (33, 36),
            (63, 64),
            (64, 64),
            (65, 72),
            (100, 104),
            (1000, 1024),
            (1025, 1088),
            (65_544, 67_584),
            (1_000_008, 1_015_808),
        ] {
            assert_eq!(padme(n), Some(padded), "{n}");
        }
    }

    #[test]
    fn lengths_are_fixed_points_and_never_shrink() {
        for n in 0..100_000 {
            let padded = padme(n).unwrap();
            assert!(padded >= n && padme(padded) == Some(padded));
            assert!(padded - n <= n / 8 + 1);
        }
        assert_eq!(padme(u64::MAX), None);
    }

    /// Around every power of two, and at the end: the formula in numbers that cannot overflow, or nothing.
    #[test]
    fn lengths_at_their_limits() {
        let formula = |n: u64| {
            let e = n.ilog2();
            let z = e.saturating_sub(e.checked_ilog2().map_or(0, |log| log + 1));
            u64::try_from(u128::from(n).next_multiple_of(1 << z)).ok()
        };
        for n in (1..64).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1, (1 << e) + (1 << (e - 1)) + 1]) {
            assert_eq!(padme(n), formula(n), "{n}");
        }
        // The longest that can be padded, and what is longer.
        let longest = u64::MAX - ((1 << 57) - 1);
        assert_eq!((padme(longest), padme(longest + 1)), (Some(longest), None));
        assert_eq!((formula(longest), formula(longest + 1)), (Some(longest), None));
    }
}
