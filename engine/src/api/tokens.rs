//! Machine tokens: made, listed, revoked. The value is in the answer to the one call that makes it, and nowhere else.
use super::{
    Api,
    authz::Authz,
    machines::{Machines, New},
    page,
    requests::caller,
    status::{invalid, refuse},
    validate,
};
use crate::{
    cell::Cell,
    clock::{Millis, duration_millis, timestamp},
    door,
    error::Error,
    id::InstanceId,
    view,
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};
use syp_auth::{machine, path::Normal, policy::Role};
use syp_proto::{
    journal::{Instance, MachineToken, TokenChanged},
    v1,
};
use tonic::{Code, Status};

const YEAR_MS: Millis = 365 * 24 * 3_600_000;
/// Tokens of the control plane.
const MOST: usize = 500;
/// Paths of one token.
const MOST_PATHS: usize = 20;

impl Api {
    pub(super) async fn make_token(&self, a: &Authz, r: v1::CreateTokenRequest) -> Result<v1::Token, Status> {
        a.is_about(if r.parent.is_empty() { "tokens" } else { &r.parent });
        if a.identity.issuer == machine::ISSUER {
            return Err(refuse(
                Code::PermissionDenied,
                "PERMISSION_DENIED",
                "a machine token makes no tokens: they would outlive it",
                "make it as yourself: 'sypctl login'",
            ));
        }
        let asked = r.token.clone().unwrap_or_default();
        let ttl = r.ttl.as_ref().map_or(0, duration_millis);
        if !(1_000..=YEAR_MS).contains(&ttl) {
            return Err(invalid("ttl", "every token ends: 1s to 365d"));
        }
        let name = asked.display_name.trim();
        if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
            return Err(invalid("token.display_name", "1 to 63 characters, to tell it from the others"));
        }
        let who = caller(a, &r.request_id, &r)?;
        let repeated = self.engine.answered(&who).await?.is_some();
        // one request, one token: its id follows from the request's
        let id = if r.request_id.is_empty() {
            InstanceId::random().short()
        } else {
            hex::encode(&Sha256::digest(format!("{}|{}", who.actor, who.request_id))[..6])
        };
        let role = door::role(asked.role()).unwrap_or(Role::User);
        let paths = asked.path_prefixes.clone();
        let new = New { id, display_name: name, ttl, paths, role, creator: a.actor() };
        let (value, digest) = machine::generate().map_err(Status::internal)?;
        let (parent, made) = if r.parent.is_empty() {
            let t = self.make_control_token(a, new, &digest, &r, &who, repeated).await?;
            (String::new(), t)
        } else {
            let cell = self.live(a, &r.parent, Role::Operator).await?;
            let t = self.make_data_token(&cell, new, &digest, &r, &who, repeated).await?;
            (view::full_name(&cell.get()), t)
        };
        let mut out = shown(&parent, made);
        // whoever lost the first answer gets no second look at it
        if !repeated && !r.validate_only {
            value.expose_secret().clone_into(&mut out.value);
        }
        Ok(out)
    }

    async fn make_data_token(
        &self,
        cell: &Arc<Cell>,
        new: New<'_>,
        digest: &[u8],
        r: &v1::CreateTokenRequest,
        who: &crate::engine::Caller,
        repeated: bool,
    ) -> Result<MachineToken, Status> {
        if new.role > Role::User {
            return Err(invalid("token.role", "a token of an instance's data plane has none"));
        }
        if new.paths.len() > MOST_PATHS || new.paths.iter().any(|p| Normal::read(p).is_none()) {
            return Err(invalid(
                "token.path_prefixes",
                "at most 20, each a plain absolute path without '.', '..', '//' or ';'",
            ));
        }
        if repeated {
            let i = cell.get();
            return i.tokens.iter().find(|t| t.id == new.id).cloned().ok_or_else(gone);
        }
        let t = new.with(digest, self.engine.clock());
        if !r.validate_only {
            let change = TokenChanged { created: Some(t.clone()), revoked: String::new() };
            self.engine.change_token(cell, change, who).await?;
        }
        Ok(t)
    }

    async fn make_control_token(
        &self,
        a: &Authz,
        new: New<'_>,
        digest: &[u8],
        r: &v1::CreateTokenRequest,
        who: &crate::engine::Caller,
        repeated: bool,
    ) -> Result<MachineToken, Status> {
        if new.role < Role::Viewer {
            return Err(invalid("token.role", "viewer, operator or admin"));
        }
        if !new.paths.is_empty() {
            return Err(invalid("token.path_prefixes", "a token of the control plane has none"));
        }
        // nobody gives away more than they have
        a.require(Role::Operator.max(new.role))?;
        let machines = self.identities.machines();
        let _guard = machines.changing.lock().await;
        let mut all = machines.all();
        if repeated {
            return all.into_iter().find(|t| t.id == new.id).ok_or_else(gone);
        }
        let now = self.engine.clock().now();
        all.retain(|t| t.expire_ms > now);
        if all.len() >= MOST {
            return Err(invalid("token", "there are 500 already: revoke what nobody uses"));
        }
        let t = new.with(digest, self.engine.clock());
        if !r.validate_only {
            all.push(t.clone());
            let answer = self.engine.answer(who, String::new(), String::new());
            let commit = crate::store::Commit { answer, ..Machines::commit(&all) };
            self.engine.store().commit(commit).await.map_err(Error::from)?;
            machines.wrote(all);
        }
        Ok(t)
    }

    pub(super) async fn tokens(
        &self,
        a: &Authz,
        r: v1::ListTokensRequest,
    ) -> Result<v1::ListTokensResponse, Status> {
        let mut all = Vec::new();
        if r.parent.is_empty() {
            a.require(Role::Operator)?;
            all.extend(self.identities.machines().all().into_iter().map(|t| shown("", t)));
        } else if r.parent.contains("/instances/") {
            let cell = self.live(a, &r.parent, Role::Operator).await?;
            all.extend(self.of_instance(&cell, !r.without_uses).await);
        } else {
            let project = validate::parent(&r.parent)?;
            for cell in self.engine.cells() {
                let i = cell.get();
                let seen = (project == "-" || i.project == project)
                    && a.role_on(&i).is_some_and(|role| role >= Role::Operator);
                if seen && !i.tokens.is_empty() {
                    all.extend(self.of_instance(&cell, !r.without_uses).await);
                }
            }
        }
        all.sort_by(|x, y| x.name.cmp(&y.name));
        let (tokens, next_page_token) =
            page::cut(all, r.page_size, &r.page_token, &r.parent, |t| t.name.clone())?;
        Ok(v1::ListTokensResponse { tokens, next_page_token })
    }

    /// If wanted, with what the gate says of their use; a gate that does not answer says nothing.
    async fn of_instance(&self, cell: &Arc<Cell>, with_uses: bool) -> Vec<v1::Token> {
        let i = cell.get();
        let ask = with_uses && !i.tokens.is_empty();
        let uses = if ask { self.uses(cell, &i).await } else { BTreeMap::new() };
        let parent = view::full_name(&i);
        let token = |t: &MachineToken| {
            let last = uses.get(&t.id).and_then(|s| i64::try_from(*s).ok()).unwrap_or(0);
            shown(&parent, MachineToken { last_use_ms: last * 1000, ..t.clone() })
        };
        i.tokens.iter().map(token).collect()
    }

    async fn uses(&self, cell: &Arc<Cell>, i: &Instance) -> BTreeMap<String, u64> {
        let target = self.engine.target(i.spec.as_ref().map_or("", |s| s.target.as_str()));
        let Ok(target) = target else { return BTreeMap::new() };
        let stats = target.stats(&self.engine.context(cell)).await.unwrap_or_default();
        stats.status.map(|s| s.token_uses).unwrap_or_default()
    }

    pub(super) async fn revoke(&self, a: &Authz, r: v1::RevokeTokenRequest) -> Result<(), Status> {
        a.is_about(&r.name);
        let (parent, id) = match r.name.rsplit_once("tokens/") {
            Some((parent, id)) if !id.is_empty() && !id.contains('/') => (parent.trim_end_matches('/'), id),
            _ => return Err(invalid("name", "tokens/ID, or the instance's name before it")),
        };
        let who = caller(a, &r.request_id, &r)?;
        if self.engine.answered(&who).await?.is_some() {
            return Ok(());
        }
        if parent.is_empty() && self.revoke_control_token(a, id, &r, &who).await? {
            return Ok(());
        }
        let cell = if parent.is_empty() {
            let has = |c: &Arc<Cell>| {
                let i = c.get();
                i.tokens.iter().any(|t| t.id == id)
                    && a.role_on(&i).is_some_and(|role| role >= Role::Operator)
            };
            self.engine.cells().into_iter().find(has).ok_or_else(|| Error::NotFound(r.name.clone()))?
        } else {
            self.live(a, parent, Role::Operator).await?
        };
        if r.validate_only {
            return Ok(());
        }
        let change = TokenChanged { created: None, revoked: id.into() };
        Ok(self.engine.change_token(&cell, change, &who).await?)
    }

    /// Whether there was one.
    async fn revoke_control_token(
        &self,
        a: &Authz,
        id: &str,
        r: &v1::RevokeTokenRequest,
        who: &crate::engine::Caller,
    ) -> Result<bool, Status> {
        let machines = self.identities.machines();
        let _guard = machines.changing.lock().await;
        let mut all = machines.all();
        let Some(at) = all.iter().position(|t| t.id == id) else { return Ok(false) };
        a.require(Role::Operator.max(door::role(all[at].role()).unwrap_or_default()))?;
        if !r.validate_only {
            all.remove(at);
            let answer = self.engine.answer(who, String::new(), String::new());
            let commit = crate::store::Commit { answer, ..Machines::commit(&all) };
            self.engine.store().commit(commit).await.map_err(Error::from)?;
            machines.wrote(all);
        }
        Ok(true)
    }
}

fn gone() -> Status {
    Error::NotFound("the token that this request made; it was revoked".into()).into()
}

pub(super) fn shown(parent: &str, t: MachineToken) -> v1::Token {
    let name = format!("tokens/{}", t.id);
    v1::Token {
        name: if parent.is_empty() { name } else { format!("{parent}/{name}") },
        display_name: t.display_name,
        role: t.role,
        resource: parent.into(),
        expire_time: timestamp(t.expire_ms),
        last_use_time: timestamp(t.last_use_ms),
        value: String::new(),
        path_prefixes: t.path_prefixes,
        create_time: timestamp(t.create_ms),
        creator: t.creator,
    }
}
