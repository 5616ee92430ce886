//! Seeded mutations, for a short run without a fuzzing engine.

use crate::Target;
use crate::input::Random;

/// Makes a new input out of two others and the words of a target.
///
/// It is never larger than the target allows, and the same for the same state of `random`.
pub fn mutate(target: &Target, from: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut octets = from.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(octets.len() + 1);
        let end = at + random.below(octets.len() - at + 1).min(random.below(40));
        match random.below(8) {
            0 => octets.insert(at, random.number() as u8),
            1 if at < octets.len() => octets[at] ^= 1 << random.below(8),
            2 if at < octets.len() => octets[at] = random.number() as u8,
            3 => drop(octets.drain(at..end)),
            4 => {
                let copy = octets[at..end].to_vec();
                let to = random.below(octets.len() + 1);
                drop(octets.splice(to..to, copy));
            }
            5 if !target.words.is_empty() => {
                let word = target.words[random.below(target.words.len())];
                drop(octets.splice(at..at, word.bytes()));
            }
            6 => {
                let from = random.below(other.len() + 1);
                let len = random.below(other.len() - from + 1).min(random.below(200));
                drop(octets.splice(at..end, other[from..from + len].iter().copied()));
            }
            _ => {
                let (run, octet) = (random.below(64), random.number() as u8);
                drop(octets.splice(at..at, std::iter::repeat_n(octet, run)));
            }
        }
    }
    octets.truncate(target.size_max);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_new_bounded_and_the_same_again() {
        let target = &crate::targets::ALL[0];
        let run = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(target, b"EHLO c.test", b"QUIT", &mut random)).collect()
        };
        let (first, again, other): (Vec<_>, Vec<_>, Vec<_>) = (run(1), run(1), run(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert!(first.iter().filter(|octets| &octets[..] != b"EHLO c.test").count() > 150);
        assert!(first.iter().all(|octets| octets.len() <= target.size_max));
    }
}
