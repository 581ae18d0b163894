//! `syp.v1.Access`: who calls, and who may.
use super::{
    Api,
    authz::{self, Authz},
    identity::API_AUDIENCE,
    requests::caller,
    status::{invalid, refuse},
    validate,
};
use crate::{clock::timestamp, door, error::Error, store::Commit};
use secrecy::ExposeSecret;
use std::time::Duration;
use syp_auth::policy::Role;
use syp_proto::{
    journal::Edited,
    v1::{self, Plane, access_server::Access},
};
use tonic::{Code, Request, Response, Status, async_trait};

#[async_trait]
impl Access for Api {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::Principal>, Status> {
        Ok(Response::new(Authz::of(&request)?.principal()))
    }

    async fn issue_local_token(
        &self,
        request: Request<v1::IssueLocalTokenRequest>,
    ) -> Result<Response<v1::IssueLocalTokenResponse>, Status> {
        let r = request.into_inner();
        let ttl = r.ttl.as_ref().map_or(3_600_000, crate::clock::duration_millis);
        if !(1_000..=86_400_000).contains(&ttl) {
            return Err(invalid("ttl", "1s to 24h"));
        }
        let audience = match r.audience.as_str() {
            "" | API_AUDIENCE => API_AUDIENCE.to_owned(),
            name => {
                let (project, short) = name
                    .strip_prefix("projects/")
                    .and_then(|n| n.split_once("/instances/"))
                    .unwrap_or(("default", name));
                let cell =
                    self.engine.by_name(project, short).ok_or_else(|| Error::NotFound(name.to_owned()))?;
                door::instance_audience(&cell.id.to_string())
            }
        };
        let (token, identity) = self
            .identities
            .issue_local(
                &audience,
                &r.email,
                &r.subject,
                &r.groups,
                Duration::from_millis(u64::try_from(ttl).unwrap_or(0)),
            )
            .map_err(|e| refuse(Code::FailedPrecondition, "LOCAL_ISSUER", e, "run 'sypctl doctor'"))?;
        let role = self.identities.role(&identity, true);
        let a = Authz::new(identity, role, true);
        Ok(Response::new(v1::IssueLocalTokenResponse {
            token: token.expose_secret().to_owned(),
            expire_time: timestamp(self.engine.clock().now() + ttl),
            principal: Some(a.principal()),
        }))
    }

    async fn get_access_policy(
        &self,
        request: Request<v1::GetAccessPolicyRequest>,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        if r.resource.is_empty() {
            a.require(Role::Viewer)?;
            return Ok(Response::new(self.identities.control_policy()));
        }
        let i = self.any(&a, &r.resource, Role::Viewer).await?;
        let spec = i.spec.clone().unwrap_or_default();
        let mut p =
            if r.plane() == Plane::Control { spec.operators } else { spec.access }.unwrap_or_default();
        p.etag = crate::ops::etag(&i);
        Ok(Response::new(p))
    }

    async fn set_access_policy(
        &self,
        request: Request<v1::SetAccessPolicyRequest>,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let policy = r.policy.clone().ok_or_else(|| invalid("policy", "required"))?;
        validate::access("policy", &policy)?;
        if r.resource.is_empty() {
            return self.set_control_policy(&a, &r, policy).await;
        }
        let cell = self.live(&a, &r.resource, Role::Operator).await?;
        let control = r.plane() == Plane::Control;
        let held = cell.get().spec.clone().unwrap_or_default();
        let held = if control { held.operators } else { held.access };
        self.usable("policy", &policy, &held.unwrap_or_default())?;
        if control {
            self.may_be_given(&a, &cell.get())?;
        }
        if control && !r.allow_self_lockout {
            let after = authz::decide(&door::policy(&policy), &a.identity).max(a.role);
            if after.is_none_or(|x| x < Role::Operator) {
                return Err(lockout());
            }
        }
        let expect = policy.etag.clone();
        let stored = Some(v1::AccessPolicy { rules: policy.rules, etag: String::new() });
        let mut e = Edited { request_id: r.request_id.clone(), ..Default::default() };
        if control {
            e.operators = stored;
        } else {
            e.access = stored;
        }
        let who = caller(&a, &r.request_id, &r)?;
        // a repeated request is answered with what it has become
        if !r.validate_only && self.engine.answered(&who).await?.is_none() {
            self.engine.edit(&cell, e, &expect, &who).await?;
        }
        let i = cell.get();
        let spec = i.spec.clone().unwrap_or_default();
        let mut p = if control { spec.operators } else { spec.access }.unwrap_or_default();
        p.etag = crate::ops::etag(&i);
        Ok(Response::new(p))
    }

    async fn list_policy_changes(
        &self,
        request: Request<v1::ListPolicyChangesRequest>,
    ) -> Result<Response<v1::ListPolicyChangesResponse>, Status> {
        let a = Authz::of(&request)?;
        self.history(&a, request.into_inner()).await.map(Response::new)
    }

    async fn test_access(
        &self,
        request: Request<v1::TestAccessRequest>,
    ) -> Result<Response<v1::TestAccessResponse>, Status> {
        let a = Authz::of(&request)?;
        self.suppose(&a, request.into_inner()).await.map(Response::new)
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        let a = Authz::of(&request)?;
        self.make_token(&a, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let a = Authz::of(&request)?;
        self.tokens(&a, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Result<Response<()>, Status> {
        let a = Authz::of(&request)?;
        self.revoke(&a, request.into_inner()).await.map(Response::new)
    }
}

pub(super) fn lockout() -> Status {
    refuse(
        Code::FailedPrecondition,
        "SELF_LOCKOUT",
        "after this change you could not change it back",
        "keep a rule that names you, or pass --force",
    )
}

impl Api {
    async fn set_control_policy(
        &self,
        a: &Authz,
        r: &v1::SetAccessPolicyRequest,
        policy: v1::AccessPolicy,
    ) -> Result<Response<v1::AccessPolicy>, Status> {
        a.require(Role::Admin)?;
        let who = caller(a, &r.request_id, r)?;
        if self.engine.answered(&who).await?.is_some() {
            return Ok(Response::new(self.identities.control_policy()));
        }
        // two changes of one etag: the first one wins
        let _guard = self.identities.changing.lock().await;
        let current = self.identities.control_policy();
        if !policy.etag.is_empty() && policy.etag != current.etag {
            return Err(Error::EtagMismatch.into());
        }
        self.usable("policy", &policy, &current)?;
        if !r.allow_self_lockout && authz::decide(&door::policy(&policy), &a.identity) < Some(Role::Admin) {
            return Err(lockout());
        }
        if r.validate_only {
            return Ok(Response::new(policy));
        }
        let value = prost::Message::encode_to_vec(&v1::AccessPolicy {
            rules: policy.rules.clone(),
            etag: String::new(),
        });
        let commit = Commit {
            settings: vec![(super::identity::CONTROL_POLICY.into(), value)],
            answer: self.engine.answer(&who, String::new(), String::new()),
            ..Default::default()
        };
        self.engine.store().commit(commit).await.map_err(Error::from)?;
        self.identities.set_control_policy(policy);
        Ok(Response::new(self.identities.control_policy()))
    }
}
