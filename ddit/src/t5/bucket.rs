//! Relative positions, and how attention lumps them together.

/// The bucket of a position `relative` tokens after (before, if negative) the one that looks.
///
/// Half of the `buckets` are for what comes after. Of each half, the first half hold one distance
/// each and the others distances that grow as a geometric series up to `max_distance`; everything
/// beyond is in the last. With e = buckets/4, a distance n ≥ e is in
///
/// e + ⌊(buckets/2 − e) · ln(n/e) / ln(max_distance/e)⌋.
///
/// Source: Raffel et al. 2020, §2.1; Shaw, Uszkoreit & Vaswani 2018, §3.2.
pub fn bucket(relative: isize, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let (base, distance) = (if relative > 0 { half } else { 0 }, relative.unsigned_abs());
    if distance < exact {
        return base + distance;
    }
    let ratio = |n: usize| (n as f64 / exact as f64).ln();
    let step = ratio(distance) / ratio(max_distance) * (half - exact) as f64;
    base + (exact + step as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest k ≤ m with (n/e)^m ≥ (d/e)^k, by whole numbers alone: no logarithm is rounded.
    fn steps(n: u128, e: u128, d: u128, m: u32) -> usize {
        let reaches = |k: u32| n.pow(m) * e.pow(k) >= d.pow(k) * e.pow(m);
        (0..=m).rev().find(|&k| reaches(k)).unwrap() as usize
    }

    #[test]
    fn distances_fall_into_the_series_of_whole_numbers() {
        for (buckets, max_distance) in [(32, 128), (16, 40), (8, 16), (32, 20), (12, 81), (20, 64)]
        {
            let (half, exact) = (buckets / 2, buckets / 4);
            for n in 0..300_usize {
                let want = match n < exact {
                    true => n,
                    false => {
                        let [n, e, d] = [n, exact, max_distance].map(|x| x as u128);
                        (exact + steps(n, e, d, (half - exact) as u32)).min(half - 1)
                    }
                };
                let before = bucket(-(n as isize), buckets, max_distance);
                assert_eq!(before, want, "{n} before, {buckets} buckets to {max_distance}");
                let after = bucket(n as isize, buckets, max_distance);
                assert_eq!(after, if n == 0 { 0 } else { half + want }, "{n} after");
            }
        }
    }

    /// The usual geometry: distances 0 to 7 alone, then 8–11, 12–15, 16–22, 23–31, 32–45, 46–63,
    /// 64–90, and the rest: limits 8·16^(k/8), rounded up.
    #[test]
    fn the_usual_limits() {
        let limits = [8, 12, 16, 23, 32, 46, 64, 91];
        for n in 8..1000_isize {
            let place = limits.iter().rposition(|&limit| n >= limit).unwrap();
            assert_eq!(bucket(-n, 32, 128), 8 + place, "{n}");
        }
    }
}
