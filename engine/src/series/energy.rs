//! What an instance has drawn, wherever that is: in memory, in the head of its series, or what was left when it ended.
use super::code::{energy_of, head_of, to_energy};
use crate::{energy::Meter, engine::Engine, error::Error, id::InstanceId};
use prost::Message;
use syp_proto::{journal::SeriesEnergy, v1};

fn setting(id: InstanceId) -> String {
    format!("energy|{id}")
}

/// What is kept of an instance that is over: as its receipt and cost, for ever.
pub(super) fn last(id: InstanceId, m: &Meter) -> Option<(String, Vec<u8>)> {
    (m.from != 0).then(|| (setting(id), to_energy(m).encode_to_vec()))
}

impl Engine {
    /// Energy of an instance; `None`: nobody has looked.
    ///
    /// # Errors
    /// The store's.
    pub async fn energy(&self, id: InstanceId) -> Result<Option<v1::Energy>, Error> {
        if let Some(live) = self.series().get(id) {
            return Ok(live.lock().head.energy.shown());
        }
        if let Some(head) = self.store().series_head(id).await? {
            return Ok(head_of(&head).energy.shown());
        }
        let Some(bytes) = self.store().setting(&setting(id)).await? else { return Ok(None) };
        let e = SeriesEnergy::decode(bytes.as_slice()).map_err(|e| Error::Corrupt(e.to_string()))?;
        Ok(energy_of(&e).shown())
    }
}
