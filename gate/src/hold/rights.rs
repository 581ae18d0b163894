//! Giving up every right that was needed to seal, for good.

use caps::{CapSet, errors::CapsError};

/// Drops all capabilities from every set of this thread (the only one) and from the bounding set, so that nothing it could
/// execute gets them back.
///
/// # Errors
/// The kernel refuses; then the holder must not go on.
pub fn drop_all() -> Result<(), CapsError> {
    // the bounding set first: that takes CAP_SETPCAP, which a container may not have; without it nothing here can exec a
    // file with capabilities anyway (the image holds only this binary)
    for capability in caps::all() {
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    // kernels older than 4.3 have no ambient set
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    Ok(())
}
