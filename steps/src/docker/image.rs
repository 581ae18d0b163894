//! The user's image on this host: pulled when it is not there. Images are shared, so no instance owns one.
use super::{
    Shared,
    client::{failed, optional},
};
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Image(pub Arc<Shared>);

impl Step for Image {
    fn kind(&self) -> &'static str {
        "docker.image@1"
    }

    async fn observe(&self, cx: &StepCx, _: &str) -> Result<Observed, Failure> {
        let name = cx.facts["image"].as_str().unwrap_or(&cx.spec.image);
        Ok(match optional(self.0.docker.inspect_image(name).await)? {
            None => Observed::Absent,
            Some(i) => Observed::Present { handle: i.id.unwrap_or_default(), ours: true, healthy: true },
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        if let Observed::Present { handle, .. } = self.observe(cx, key).await? {
            return Ok(Done { handle, ..Default::default() });
        }
        let from = cx.facts["pull"].as_str().unwrap_or(&cx.spec.image).to_owned();
        cx.waiting.on(&cx.node, "PULLING", format!("pulling {from}"), "", self.0.clock.now());
        let how = CreateImageOptions { from_image: Some(from.clone()), ..Default::default() };
        let credentials = super::preflight::credentials(&from).await;
        let mut pull = self.0.docker.create_image(Some(how), None, credentials);
        while let Some(progress) = pull.next().await {
            if let Err(e) = progress {
                return Err(lost(not_found(failed(&e), &from), &from));
            }
        }
        match self.observe(cx, key).await? {
            Observed::Present { handle, .. } => Ok(Done { handle, ..Default::default() }),
            _ => Err(failure(
                Class::Transient,
                "IMAGE_NOT_FOUND",
                format!("{from} was pulled but is not there"),
                "the engine tries again",
            )),
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

/// Whoever has lost an image that was only here is told so, whatever the engine says of a registry that it can't ask.
fn lost(mut f: Failure, image: &str) -> Failure {
    if !f.message.contains(image) {
        f.message = format!("'{image}' is not on this host, and can't be pulled: {}", f.message);
    }
    if f.reason == "PROVIDER_ERROR" {
        f.hint =
            "bring it back ('docker load', 'docker build'), or serve another with 'sypctl set NAME --image'"
                .into();
    }
    f
}

/// A 404 about an image has its own word.
pub(super) fn not_found(f: Failure, image: &str) -> Failure {
    let text = f.message.to_lowercase();
    let gone =
        ["not found", "no such image", "manifest unknown", "does not exist"].iter().any(|w| text.contains(w));
    if f.reason == "NOT_FOUND" || (gone && f.reason != "IMAGE_AUTH_FAILED") {
        return failure(
            Class::Terminal,
            "IMAGE_NOT_FOUND",
            format!("there is no image '{image}' here or in its registry: {}", f.message),
            "check its name and tag; 'docker images' shows what is here, 'docker login' opens private registries",
        );
    }
    f
}
