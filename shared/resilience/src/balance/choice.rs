//! The power of two choices: of two backends drawn at random, the less loaded one.
//!
//! Always taking the least loaded of all would be better if everybody knew the load at once. Nobody does: what a router
//! knows is old by one call, and a fleet of routers would run to the same backend together. Two choices are nearly as even as
//! all choices (M. Mitzenmacher, "The power of two choices in randomized load balancing", 2001), and cannot stampede.

use crate::backoff::Randomness;

/// Orders backends by repeated choice: the first is drawn by the power of two choices from all of them, the next from those
/// that are left, and so on. `costs` are the backends' loads, the lower the better; the answer holds each index once.
pub fn power_of_two_choices(costs: &[f64], randomness: &dyn Randomness) -> Vec<usize> {
    let mut left: Vec<usize> = (0..costs.len()).collect();
    let mut order = Vec::with_capacity(costs.len());
    while let [_, _, ..] = left.as_slice() {
        let one = draw(left.len(), randomness);
        // A second one that is never the first: drawn from one place fewer, and stepped over it.
        let mut other = draw(left.len() - 1, randomness);
        if other >= one {
            other += 1;
        }
        let better = if costs[left[other]] < costs[left[one]] { other } else { one };
        order.push(left.swap_remove(better));
    }
    order.extend(left);
    order
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a pool is far below 2^52 backends, and the product is from 0 to its size"
)]
fn draw(among: usize, randomness: &dyn Randomness) -> usize {
    // A source that leaves [0, 1) must not lead out of the pool.
    ((randomness.unit() * among as f64) as usize).min(among.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::SplitMix64;
    use proptest::prelude::*;

    fn firsts(costs: &[f64], rounds: u32) -> Vec<u32> {
        let randomness = SplitMix64::seeded(7);
        let mut firsts = vec![0; costs.len()];
        for _ in 0..rounds {
            firsts[power_of_two_choices(costs, &randomness)[0]] += 1;
        }
        firsts
    }

    // Thousands of draws take Miri ten minutes, and touch no memory that the other tests do not.
    #[cfg(not(miri))]
    #[test]
    fn equals_share_evenly() {
        for count in firsts(&[1.0; 5], 10_000) {
            assert!((1800..2200).contains(&count), "{count}");
        }
    }

    // Thousands of draws take Miri ten minutes, and touch no memory that the other tests do not.
    #[cfg(not(miri))]
    #[test]
    fn the_worst_of_all_is_never_first_and_the_best_often() {
        let firsts = firsts(&[3.0, 1.0, 2.0], 9000);
        assert_eq!(firsts[0], 0);
        // The best wins both draws that it is part of: two thirds of all.
        assert!((5800..6200).contains(&firsts[1]), "{firsts:?}");
    }

    #[test]
    fn with_two_backends_the_better_is_always_first() {
        let rounds = if cfg!(miri) { 20 } else { 1000 };
        assert_eq!(firsts(&[0.2, 0.1], rounds), [0, rounds]);
    }

    #[test]
    fn a_source_out_of_range_leads_nowhere_else() {
        #[derive(Debug)]
        struct One;
        impl Randomness for One {
            fn unit(&self) -> f64 {
                1.0
            }
        }
        assert_eq!(power_of_two_choices(&[1.0, 2.0, 0.5], &One).len(), 3);
    }

    proptest! {
        #[test]
        fn every_backend_is_there_once(costs in proptest::collection::vec(0.0_f64..10.0, 0..20), seed: u64) {
            let mut order = power_of_two_choices(&costs, &SplitMix64::seeded(seed));
            order.sort_unstable();
            prop_assert_eq!(order, (0..costs.len()).collect::<Vec<_>>());
        }
    }
}
