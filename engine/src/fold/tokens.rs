//! Machine tokens of an instance's data plane: made, revoked, and let go some time after their end.
use crate::clock::Millis;
use syp_proto::journal::{Instance, Record, TokenChanged};

/// An ended token is shown for so long.
const SHOWN_MS: Millis = 7 * 24 * 3_600_000;

/// The gate gets the news with its next generation.
pub(super) fn changed(i: &mut Instance, r: &Record, t: &TokenChanged) -> Result<(), &'static str> {
    if let Some(new) = &t.created {
        if i.tokens.iter().any(|x| x.id == new.id) {
            return Err("two tokens of one id");
        }
        i.tokens.push(new.clone());
    }
    if !t.revoked.is_empty() {
        i.tokens.retain(|x| x.id != t.revoked);
    }
    i.tokens.retain(|x| x.expire_ms > r.at_ms - SHOWN_MS);
    super::next_generation(i, r.seq);
    i.gate_retry_ms = 0;
    Ok(())
}
