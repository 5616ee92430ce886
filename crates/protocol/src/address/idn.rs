//! Domains outside of ASCII (RFC 5890): their A-labels.

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use crate::error::AddressError;
use crate::limits::DOMAIN_MAX;

/// The domain in A-labels, by which it is looked up (RFC 6531 §3.2).
///
/// Letters are mapped as UTS 46 has it, so that what differs by case only is one domain. Labels are
/// separated by `.` alone, and a label outside of ASCII has to be one behind the mapping, too: what
/// looks like ASCII and is not, as full-width letters, is no domain.
pub(super) fn to_ascii(text: &str) -> Result<String, AddressError> {
    if text.len() > DOMAIN_MAX {
        return Err(AddressError::DomainTooLong);
    }
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify)
        .map_err(|_| AddressError::DomainSyntax)?;
    let mut labels = ascii.split('.');
    let is_kept = |label: &str| {
        labels.next().is_some_and(|mapped| label.is_ascii() || mapped.starts_with("xn--"))
    };
    if !text.split('.').all(is_kept) || labels.next().is_some() {
        return Err(AddressError::DomainSyntax);
    }
    Ok(ascii.into_owned())
}
