//! How urgent a message is (RFC 6710).

use std::fmt;

/// A priority: −9 to 9, from the least urgent to the most. The default is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Priority(i8);

impl Priority {
    /// That of messages of which nothing is said.
    pub const NORMAL: Self = Self(0);
    /// The most urgent one.
    pub const MAX: Self = Self(9);
    /// The least urgent one.
    pub const MIN: Self = Self(-9);

    /// The priority of a number; `None` for one that is none.
    pub fn new(level: i8) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&level).then_some(Self(level))
    }

    /// Its number.
    pub fn level(self) -> i8 {
        self.0
    }

    /// Whether it is that of messages of which nothing is said.
    pub fn is_normal(self) -> bool {
        self == Self::NORMAL
    }

    /// Reads the value of `MT-PRIORITY=`: one digit, with a minus in front of those below 0.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, digit) = text.strip_prefix('-').map_or((1, text), |digit| (-1, digit));
        match digit.as_bytes() {
            // There is one way to write 0.
            [b'0'] if sign < 0 => None,
            [digit @ b'0'..=b'9'] => Some(Self(sign * (digit - b'0').cast_signed())),
            _ => None,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_levels_are_read_as_they_are_written() {
        for level in i8::MIN..=i8::MAX {
            let priority = Priority::new(level);
            assert_eq!(priority.is_some(), (-9..=9).contains(&level), "{level}");
            assert_eq!(Priority::parse(&level.to_string()), priority, "{level}");
            if let Some(priority) = priority {
                assert_eq!((priority.to_string(), priority.level()), (level.to_string(), level));
                assert_eq!(priority.is_normal(), level == 0);
            }
        }
    }

    #[test]
    fn other_spellings_are_none() {
        for text in
            ["", "-", "-0", "00", "+1", "01", "-01", "10", "-10", "--1", " 1", "1 ", "a", "²"]
        {
            assert_eq!(Priority::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in "-?[0-9]{0,2}|\\PC{0,3}") {
            if let Some(priority) = Priority::parse(&text) {
                prop_assert_eq!(priority.to_string(), text);
            }
        }
    }
}
