//! A named volume for each VOLUME of the image, so that data outlives a restart and goes with the instance.
use super::{
    Shared,
    client::{failed, is_ours, labels, optional},
};
use bollard::{models::VolumeCreateRequest, query_parameters::RemoveVolumeOptions};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Volume(pub Arc<Shared>);

impl Step for Volume {
    fn kind(&self) -> &'static str {
        "docker.volume@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        Ok(match optional(self.0.docker.inspect_volume(key).await)? {
            None => Observed::Absent,
            Some(v) => Observed::Present {
                handle: key.into(),
                ours: is_ours(&cx.owner, Some(&v.labels)),
                healthy: true,
            },
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        if let Observed::Present { ours: false, .. } = self.observe(cx, key).await? {
            return Err(syp_engine::name_conflict(key));
        }
        let request = VolumeCreateRequest {
            name: Some(key.to_owned()),
            labels: Some(labels(&cx.owner, &cx.node)),
            ..Default::default()
        };
        self.0.docker.create_volume(request).await.map_err(|e| failed(&e))?;
        Ok(Done { handle: key.into(), ..Default::default() })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        match optional(self.0.docker.inspect_volume(&row.key).await)? {
            Some(v) if is_ours(owner, Some(&v.labels)) => {
                Ok(optional(self.0.docker.remove_volume(&row.key, None::<RemoveVolumeOptions>).await)?
                    .is_some())
            }
            _ => Ok(false),
        }
    }
}
