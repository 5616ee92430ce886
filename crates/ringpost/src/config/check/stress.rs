//! Contradictions in `[stress]`.

use super::Findings;
use crate::config::schema::StressSection;

pub(super) fn check_stress(found: &mut Findings, stress: &StressSection) {
    if !(1..=100).contains(&stress.enter_percent) {
        found.add(&["stress", "enter_percent"], "not from 1 to 100");
    }
    if stress.leave_percent >= stress.enter_percent {
        found.add(&["stress", "leave_percent"], "not below enter_percent");
    }
    found.not_zero(
        &["stress"],
        &[
            ("commit_latency", stress.commit_latency.as_millis() == 0),
            ("timeout", stress.timeout.is_zero()),
            ("errors_max", stress.errors_max == 0),
            ("junk_commands_max", stress.junk_commands_max == 0),
        ],
    );
}
