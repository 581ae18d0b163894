//! `syp.v1.Secrets`: values that several instances use. A payload goes in and never comes out.
use super::{Api, authz::Authz, create::only, page, requests::caller, status::invalid, validate};
use crate::{
    clock::timestamp,
    engine::Caller,
    error::Error,
    revision,
    shared::{self, Change, NewSecret, Rolled, SecretName},
};
use secrecy::SecretSlice;
use std::sync::Arc;
use syp_auth::policy::Role;
use syp_proto::{
    journal::{SharedSecret, SharedVersion},
    v1::{self, secrets_server::Secrets},
};
use tonic::{Request, Response, Status, async_trait};

/// Where values of this engine are.
const STORE: &str = "local";

/// `projects/{project}/secrets/{secret}`.
fn name(full: &str) -> Result<SecretName, Status> {
    let parts = full.strip_prefix("projects/").and_then(|r| r.split_once("/secrets/"));
    match parts {
        Some((project, id)) if !project.is_empty() && !id.is_empty() && !id.contains('/') => {
            Ok(SecretName { project: project.into(), id: id.into() })
        }
        _ => Err(invalid("name", "expected projects/{project}/secrets/{secret}")),
    }
}

fn payload(bytes: &mut Vec<u8>) -> Result<SecretSlice<u8>, Status> {
    let value = std::mem::take(bytes);
    if value.is_empty() {
        return Err(invalid("payload", "required: a secret without a value is none"));
    }
    if value.len() > validate::MAX_SECRET {
        return Err(invalid("payload", &format!("larger than {} bytes", validate::MAX_SECRET)));
    }
    Ok(value.into())
}

fn users(users: &[(String, Vec<shared::Use>)]) -> Vec<v1::SecretUse> {
    let of = |i: &String, u: &shared::Use| v1::SecretUse {
        instance: i.clone(),
        revision: revision::name(i.rsplit('/').next().unwrap_or_default(), u.revision),
        env: u.by.env.clone(),
        file: u.by.file.clone(),
        version: u.by.version.clone(),
        pinned: u.by.pinned,
        serving: u.serving,
    };
    users.iter().flat_map(|(i, uses)| uses.iter().map(move |u| of(i, u))).collect()
}

fn shown_version(name: &SecretName, v: &SharedVersion) -> v1::SecretVersion {
    v1::SecretVersion {
        name: format!("{name}/versions/{}", v.no),
        create_time: timestamp(v.create_ms),
        fingerprint: v.fingerprint.clone(),
        creator: v.creator.clone(),
        rollouts: vec![],
    }
}

fn shown(s: &SharedSecret, used: &[(String, Vec<shared::Use>)]) -> v1::Secret {
    let name = SecretName::of(s);
    v1::Secret {
        name: name.to_string(),
        store: STORE.into(),
        labels: s.labels.clone(),
        latest_version: s.latest.to_string(),
        update_time: timestamp(s.update_ms),
        bound_instances: used.iter().map(|(i, _)| i.clone()).collect(),
        etag: shared::etag(s),
        create_time: timestamp(s.create_ms),
        creator: s.creator.clone(),
        versions: s.versions.iter().map(|v| shown_version(&name, v)).collect(),
        uses: users(used),
        operators: s.operators.clone(),
        rolling_out: s.rollout,
    }
}

impl Api {
    /// A secret, if the caller has `need` on it.
    fn secret(&self, a: &Authz, full: &str, need: Role) -> Result<(SecretName, Arc<SharedSecret>), Status> {
        a.is_about(full);
        let name = name(full)?;
        let s = self.engine.shared().get(&name).ok_or_else(|| Error::NotFound(name.to_string()))?;
        a.require_on_secret(&s, need)?;
        Ok((name, s))
    }

    fn shown_secret(&self, s: &SharedSecret) -> v1::Secret {
        shown(s, &self.engine.users(&SecretName::of(s)))
    }

    /// Rules for a secret: those given, or whoever makes it alone.
    fn secret_operators(
        &self,
        a: &Authz,
        given: Option<v1::AccessPolicy>,
        before: &v1::AccessPolicy,
    ) -> Result<v1::AccessPolicy, Status> {
        let Some(mut p) = given.filter(|p| !p.rules.is_empty()) else {
            return Ok(only(&a.identity, v1::Role::Operator));
        };
        p.etag.clear();
        validate::access("secret.operators", &p)?;
        self.usable("secret.operators", &p, before)?;
        Ok(p)
    }

    /// The newest version with how its users come to it, as far as that is known.
    async fn rolled(&self, name: &SecretName, no: u32) -> Result<v1::SecretVersion, Status> {
        let s = self.engine.shared().get(name).ok_or_else(|| Error::NotFound(name.to_string()))?;
        let v = s.versions.iter().find(|v| v.no == no).cloned();
        let mut out = shown_version(name, &v.unwrap_or_else(|| SharedVersion { no, ..Default::default() }));
        if s.rollout && s.latest == no {
            let of = |(instance, r): (String, Rolled)| match r {
                Rolled::By(operation) => {
                    v1::SecretRollout { instance, operation, waiting_for: String::new() }
                }
                Rolled::Waits(waiting_for) => {
                    v1::SecretRollout { instance, operation: String::new(), waiting_for }
                }
                Rolled::Not => v1::SecretRollout::default(),
            };
            out.rollouts = self.engine.roll_out(name).await?.into_iter().map(of).collect();
        }
        Ok(out)
    }

    /// The number of the version that an earlier call of this request made.
    async fn made(&self, who: &Caller) -> Result<Option<u32>, Status> {
        let answer = self.engine.answered(who).await?;
        Ok(answer.map(|a| a.operation.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0)))
    }
}

#[async_trait]
impl Secrets for Api {
    async fn create_secret(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let a = Authz::of(&request)?;
        a.require(Role::Operator)?;
        let mut r = request.into_inner();
        let project = validate::one_project(&r.parent)?.to_owned();
        validate::id("secret_id", &r.secret_id)?;
        if r.secret_id == crate::vault::OWN {
            return Err(invalid("secret_id", "'own' stands for the secrets of an instance alone"));
        }
        let name = SecretName { project, id: r.secret_id.clone() };
        a.is_about(&name.to_string());
        let value = payload(&mut r.payload)?;
        // one value in the request's hash, as one that can't be guessed from it
        r.payload = self.engine.vault().fingerprint(&name, &value);
        let who = caller(&a, &r.request_id, &r)?;
        if self.made(&who).await?.is_some() {
            let (_, s) = self.secret(&a, &name.to_string(), Role::Viewer)?;
            return Ok(Response::new(self.shown_secret(&s)));
        }
        let given = r.secret.unwrap_or_default();
        validate::labels(&given.labels)?;
        let operators = self.secret_operators(&a, given.operators, &v1::AccessPolicy::default())?;
        if r.validate_only {
            return match self.engine.shared().get(&name) {
                Some(_) => Err(Error::SecretExists(name.to_string()).into()),
                None => Ok(Response::new(v1::Secret::default())),
            };
        }
        let new = NewSecret { name, labels: given.labels, operators, value };
        let s = self.engine.create_secret(new, &who).await?;
        Ok(Response::new(self.shown_secret(&s)))
    }

    async fn add_secret_version(
        &self,
        request: Request<v1::AddSecretVersionRequest>,
    ) -> Result<Response<v1::SecretVersion>, Status> {
        let a = Authz::of(&request)?;
        let mut r = request.into_inner();
        let (name, s) = self.secret(&a, &r.parent, Role::Operator)?;
        let value = payload(&mut r.payload)?;
        r.payload = self.engine.vault().fingerprint(&name, &value);
        let who = caller(&a, &r.request_id, &r)?;
        if let Some(no) = self.made(&who).await? {
            return self.rolled(&name, no).await.map(Response::new);
        }
        self.engine.fits(&name, &s, &value)?;
        if r.validate_only {
            if !r.etag.is_empty() && r.etag != shared::etag(&s) {
                return Err(Error::EtagMismatch.into());
            }
            let same = s.versions.last().filter(|v| v.fingerprint == r.payload);
            return Ok(Response::new(same.map(|v| shown_version(&name, v)).unwrap_or_default()));
        }
        let no = self.engine.add_secret_version(&name, &value, &r.etag, !r.no_rollout, &who).await?;
        self.rolled(&name, no).await.map(Response::new)
    }

    async fn get_secret(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let a = Authz::of(&request)?;
        let (_, s) = self.secret(&a, &request.into_inner().name, Role::Viewer)?;
        Ok(Response::new(self.shown_secret(&s)))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let project = validate::parent(&r.parent)?;
        let mut all = self.engine.shared().all();
        all.retain(|s| {
            (project == "-" || s.project == project)
                && a.role_on_secret(s).is_some_and(|role| role >= Role::Viewer)
        });
        let key = |s: &Arc<SharedSecret>| SecretName::of(s).to_string();
        all.sort_by_key(key);
        let (all, next_page_token) = page::cut(all, r.page_size, &r.page_token, &r.parent, key)?;
        let names: Vec<_> = all.iter().map(|s| SecretName::of(s)).collect();
        let used = self.engine.users_of(&names);
        let secrets = all.iter().zip(&used).map(|(s, used)| shown(s, used)).collect();
        Ok(Response::new(v1::ListSecretsResponse { secrets, next_page_token }))
    }

    async fn update_secret(
        &self,
        request: Request<v1::UpdateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        let new = r.secret.unwrap_or_default();
        let (name, s) = self.secret(&a, &new.name, Role::Operator)?;
        let mut change = Change::default();
        for path in r.update_mask.iter().flat_map(|m| &m.paths) {
            match path.as_str() {
                "labels" => {
                    validate::labels(&new.labels)?;
                    change.labels = Some(new.labels.clone());
                }
                "operators" => {
                    let before = s.operators.clone().unwrap_or_default();
                    change.operators = Some(self.secret_operators(&a, new.operators.clone(), &before)?);
                }
                other => {
                    let words = format!("'{other}' can't be changed; what can: labels, operators");
                    return Err(invalid("update_mask", &words));
                }
            }
        }
        if change.labels.is_none() && change.operators.is_none() {
            return Err(invalid("update_mask", "say which fields: labels, operators"));
        }
        if let Some(p) = &change.operators {
            let after = SharedSecret { operators: Some(p.clone()), ..Default::default() };
            if a.role_on_secret(&after) < Some(Role::Operator) {
                return Err(super::access::lockout());
            }
        }
        if r.validate_only || self.made(&who).await?.is_some() {
            return Ok(Response::new(self.shown_secret(&s)));
        }
        let s = self.engine.update_secret(&name, change, &new.etag, &who).await?;
        Ok(Response::new(self.shown_secret(&s)))
    }

    async fn delete_secret(&self, request: Request<v1::DeleteSecretRequest>) -> Result<Response<()>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        if self.made(&who).await?.is_some() {
            a.is_about(&r.name);
            return Ok(Response::new(()));
        }
        let (name, _) = self.secret(&a, &r.name, Role::Operator)?;
        self.engine.delete_secret(&name, &r.etag, r.force, r.validate_only, &who).await?;
        Ok(Response::new(()))
    }
}
