//! Which credentials a way asks for.

use std::fmt;

/// Names the credentials that the driver logs in with at a next hop, and how. Equal for what is equal.
///
/// Sites with different credentials share no connections, so that no mail goes in the name of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoginProfile(pub u64);

impl fmt::Debug for LoginProfile {
    /// Without the number: it is made of a password, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginProfile")
    }
}
