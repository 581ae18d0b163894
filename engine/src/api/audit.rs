//! `syp.v1.Audit`: who did what, when, and with what outcome. Rows are written by `layer.rs` and chained by the store.
use super::{
    Api, roles,
    status::invalid,
    validate,
    watch::{self, HEARTBEAT, Woke, woken},
};
use crate::{
    clock::{Millis, millis, timestamp},
    error::Error,
    id::{InstanceId, OperationId},
    store::{AuditRow, Link},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use syp_auth::machine;
use syp_proto::{
    journal,
    v1::{self, audit_server::Audit},
};
use tonic::{Code, Request, Response, Status, async_trait};

/// Rows read at once.
const CHUNK: usize = 512;
/// Rows looked at for one answer: a page may come back with less than was asked for, and with a token.
const LOOKED_AT: usize = 50_000;
/// Rows are in the order in which they were written, which differs from that of their times by less than this.
const SLACK_MS: Millis = 600_000;

/// Which rows are asked for; all terms must hold.
#[derive(Debug, Default)]
struct Filter {
    project: Option<String>,
    actors: Vec<String>,
    methods: Vec<String>,
    targets: Vec<Target>,
    outcomes: Vec<String>,
    from: Option<Millis>,
    to: Option<Millis>,
}

/// An instance, and the incarnations whose operations count as it.
#[derive(Debug, Default)]
struct Target {
    name: String,
    uids: BTreeSet<InstanceId>,
}

// === impl Filter ===

impl Filter {
    fn parse(parent: &str, text: &str) -> Result<Self, Status> {
        let project = match parent {
            "" => "-",
            parent => validate::parent(parent)?,
        };
        let project = (project != "-").then(|| format!("projects/{project}/"));
        let mut out = Self { project, ..Default::default() };
        for term in text.split(" AND ").map(str::trim).filter(|t| !t.is_empty()) {
            let bad = |why: &str| invalid("filter", &format!("'{term}': {why}"));
            let at = term.find(['=', '<', '>']).ok_or_else(|| bad("expected field=value"))?;
            let (field, rest) = term.split_at(at);
            let operator = [">=", "<", "="].into_iter().find(|o| rest.starts_with(o));
            let operator = operator.ok_or_else(|| bad("=, >= and < are known"))?;
            let value = rest[operator.len()..].trim().trim_matches('"').to_owned();
            let time = || {
                let t: Result<prost_types::Timestamp, _> = value.parse();
                t.map(|t| millis(&t)).map_err(|_| bad("a time such as 2026-01-31T12:00:00Z"))
            };
            match (field.trim(), operator) {
                ("actor", "=") => out.actors.push(value),
                // whole paths of methods that are not ours are there too: somebody tried them
                ("method", "=") if value.contains('/') || is_method(&value) => out.methods.push(value),
                ("method", "=") => return Err(bad("no method of the API, such as SetAccessPolicy")),
                ("target", "=") => out.targets.push(Target { name: value, ..Default::default() }),
                ("outcome", "=") if is_code(&value) => out.outcomes.push(value),
                ("outcome", "=") => return Err(bad("no outcome, such as Ok or PermissionDenied")),
                ("time", ">=") => out.from = Some(time()?),
                ("time", "<") => out.to = Some(time()?),
                _ => {
                    return Err(bad("actor=, method=, target=, outcome=, time>= and time< can be asked for"));
                }
            }
        }
        Ok(out)
    }

    fn matches(&self, a: &journal::Audit) -> bool {
        self.project.as_ref().is_none_or(|p| a.target.starts_with(p.as_str()))
            && self.actors.iter().all(|who| is_actor(a, who))
            && self.methods.iter().all(|m| a.method == *m || a.method.rsplit('/').next() == Some(m))
            && self.targets.iter().all(|t| t.is(&a.target))
            && self.outcomes.iter().all(|o| a.outcome.eq_ignore_ascii_case(o))
            && self.from.is_none_or(|t| a.at_ms >= t)
            && self.to.is_none_or(|t| a.at_ms < t)
    }

    /// Whether nothing older than a row can be meant.
    fn is_behind(&self, a: &journal::Audit) -> bool {
        self.from.is_some_and(|t| a.at_ms < t.saturating_sub(SLACK_MS))
    }
}

fn is_method(short: &str) -> bool {
    roles::methods().any(|m| m.rsplit('/').next() == Some(short))
}

fn is_code(word: &str) -> bool {
    (0..=16).map(Code::from_i32).any(|c| word.eq_ignore_ascii_case(&format!("{c:?}")))
}

/// `user:ADDRESS`, `sub:SUBJECT`, `token:ID`, or either without its kind.
fn is_actor(a: &journal::Audit, who: &str) -> bool {
    let email = |e: &str| !a.email.is_empty() && a.email.eq_ignore_ascii_case(e);
    match who.split_once(':') {
        Some(("user", e)) => email(e),
        Some(("sub", s)) => a.subject == s,
        Some(("token", _)) => a.issuer == machine::ISSUER && a.subject == who,
        _ => email(who) || a.subject == who || (a.subject.is_empty() && a.peer == who),
    }
}

// === impl Target ===

impl Target {
    fn is(&self, target: &str) -> bool {
        target == self.name
            || target.strip_prefix(self.name.as_str()).is_some_and(|rest| rest.starts_with(['@', '/']))
            || OperationId::parse(target).is_some_and(|op| self.uids.contains(&op.instance))
    }
}

// === impl Api ===

impl Api {
    async fn audit_filter(&self, parent: &str, text: &str) -> Result<Filter, Status> {
        let mut filter = Filter::parse(parent, text)?;
        for t in &mut filter.targets {
            let Ok((project, name, _)) = validate::name(&t.name) else { continue };
            let ids = self.engine.store().incarnations(project, name).await.map_err(Error::from)?;
            t.uids = ids.into_iter().collect();
        }
        Ok(filter)
    }

    fn audit_stream(self, filter: Filter, after: u64) -> watch::Stream<v1::AuditEvent> {
        Box::pin(async_stream::try_stream! {
            let mut news = self.engine.store().audit_head();
            let mut last = after;
            loop {
                news.mark_unchanged();
                loop {
                    let rows = self.engine.store().audit_after(last, CHUNK).await.map_err(Error::from)?;
                    let Some(Link { seq, .. }) = rows.last().and_then(|r| r.link) else { break };
                    last = seq;
                    for r in rows.into_iter().filter(|r| filter.matches(&r.audit)) {
                        let resume_token = r.link.map_or(0, |l| l.seq).to_string();
                        yield v1::AuditEvent { resume_token, ..event(r) };
                    }
                }
                let woke = woken(&mut news, HEARTBEAT).await?;
                if matches!(woke, Woke::Beat) {
                    let time = timestamp(self.engine.clock().now());
                    yield v1::AuditEvent { time, resume_token: last.to_string(), ..Default::default() };
                }
            }
        })
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn event(r: AuditRow) -> v1::AuditEvent {
    let a = r.audit;
    v1::AuditEvent {
        name: match r.link {
            Some(l) => format!("auditEvents/{}", l.seq),
            None => format!("auditEvents/before-{}", hex::encode(&r.key)),
        },
        seq: signed(r.link.map_or(0, |l| l.seq)),
        hash: r.link.map_or_else(String::new, |l| hex::encode(l.hash)),
        time: timestamp(a.at_ms),
        actor: Some(v1::Principal {
            // before there is a token there is a user of this host, or an address
            subject: if a.subject.is_empty() { a.peer.clone() } else { a.subject },
            issuer: a.issuer,
            email: a.email,
            ..Default::default()
        }),
        method: a.method,
        targets: if a.target.is_empty() { vec![] } else { vec![a.target] },
        outcome: a.outcome,
        message: a.reason,
        peer: a.peer,
        ..Default::default()
    }
}

#[async_trait]
impl Audit for Api {
    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let r = request.into_inner();
        let filter = self.audit_filter(&r.parent, &r.filter).await?;
        let size = usize::try_from(r.page_size).map_err(|_| invalid("page_size", "0 or more"))?;
        let size = if size == 0 { 100 } else { size.min(1000) };
        // a token is good for its question alone
        let bound = hex::encode(&Sha256::digest(format!("{}|{}", r.parent, r.filter))[..6]);
        let mut before = match r.page_token.as_str() {
            "" => None,
            token => Some(place(token, &bound).ok_or_else(|| invalid("page_token", "not one of this list"))?),
        };
        let (mut audit_events, mut looked_at) = (Vec::new(), 0);
        let next = 'all: loop {
            let rows = self.engine.store().audit(before.as_deref(), CHUNK).await.map_err(Error::from)?;
            if rows.is_empty() {
                break None;
            }
            looked_at += rows.len();
            for r in rows {
                if filter.is_behind(&r.audit) {
                    break 'all None;
                }
                before = Some(r.key.clone());
                if filter.matches(&r.audit) {
                    audit_events.push(event(r));
                    if audit_events.len() >= size {
                        break 'all before;
                    }
                }
            }
            if looked_at >= LOOKED_AT {
                break before;
            }
        };
        let next_page_token =
            next.map_or_else(String::new, |k| URL_SAFE_NO_PAD.encode(format!("{bound}|{}", hex::encode(k))));
        Ok(Response::new(v1::ListAuditEventsResponse { audit_events, next_page_token }))
    }

    type WatchAuditEventsStream = watch::Stream<v1::AuditEvent>;

    async fn watch_audit_events(
        &self,
        request: Request<v1::WatchAuditEventsRequest>,
    ) -> Result<Response<Self::WatchAuditEventsStream>, Status> {
        let r = request.into_inner();
        let filter = self.audit_filter(&r.parent, &r.filter).await?;
        let head = *self.engine.store().audit_head().borrow();
        let after = match r.resume_token.as_str() {
            "" => head,
            token => token.parse().map_err(|_| invalid("resume_token", "not one of this stream"))?,
        };
        Ok(Response::new(self.clone().audit_stream(filter, after)))
    }

    async fn check_audit_trail(
        &self,
        request: Request<v1::CheckAuditTrailRequest>,
    ) -> Result<Response<v1::CheckAuditTrailResponse>, Status> {
        let r = request.into_inner();
        let known = match (r.seq, r.hash.as_str()) {
            (0, "") => None,
            (seq, hash) => {
                let seq = u64::try_from(seq).map_err(|_| invalid("seq", "of an event"))?;
                let hash = hex::decode(hash).ok().and_then(|h| h.try_into().ok());
                Some(Link { seq, hash: hash.ok_or_else(|| invalid("hash", "of an event, in hex"))? })
            }
        };
        let c = self.engine.store().check_audit(known).await.map_err(Error::from)?;
        let (broken_seq, problem) = match c.broken {
            Some((seq, why)) => (signed(seq), why),
            None if !c.known_fits => (r.seq, "there is no event of this number and hash (any more)".into()),
            None => Default::default(),
        };
        Ok(Response::new(v1::CheckAuditTrailResponse {
            events: signed(c.rows),
            first_seq: signed(c.first),
            head_seq: signed(c.head.seq),
            head_hash: hex::encode(c.head.hash),
            broken_seq,
            problem,
        }))
    }
}

fn place(token: &str, bound: &str) -> Option<Vec<u8>> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (hash, key) = text.split_once('|')?;
    (hash == bound).then(|| hex::decode(key).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_what_is_not_known_is_named() {
        let a = journal::Audit {
            at_ms: 1_000_000,
            subject: "s1".into(),
            email: "a@x.org".into(),
            method: "syp.v1.Instances/CreateInstance".into(),
            target: "projects/p/instances/shop@0af3".into(),
            outcome: "PermissionDenied".into(),
            ..Default::default()
        };
        let holds = |parent: &str, f: &str| Filter::parse(parent, f).unwrap().matches(&a);
        for yes in [
            "",
            "actor=user:A@x.org",
            "actor=a@x.org AND method=CreateInstance",
            "actor=sub:s1",
            "method=syp.v1.Instances/CreateInstance",
            "target=projects/p/instances/shop",
            "outcome=permissiondenied",
            "time>=1970-01-01T00:16:40Z AND time<1970-01-01T00:16:41Z",
        ] {
            assert!(holds("projects/p", yes), "{yes}");
        }
        for no in
            ["actor=user:b@x.org", "actor=user:s1", "method=GetInstance", "target=projects/p/instances/sho"]
        {
            assert!(!holds("", no), "{no}");
        }
        assert!(!holds("projects/other", "") && holds("projects/-", ""));
        assert!(!holds("", "time>=1970-01-01T00:16:41Z") && !holds("", "time<1970-01-01T00:16:40Z"));
        for bad in [
            "who=x",
            "actor",
            "time=1970-01-01T00:00:00Z",
            "time>=soon",
            "actor<x",
            "time>x",
            "method=Create",
            "outcome=Fine",
        ] {
            let e = Filter::parse("", bad).unwrap_err();
            assert!(e.message().contains(bad), "{e:?}");
        }
    }
}
