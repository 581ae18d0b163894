//! A CloudFormation of our own, for what no emulator does: stacks that take their time, and that fail in every way there is. It speaks the
//! real protocol to the real client, keeps AWS' rules of what may be asked for in which status, and loses answers when told to.
use super::scripted_sets::{self as sets, Set};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
};
use tokio::net::TcpListener;

pub type Form = HashMap<String, String>;
pub type Refused = (&'static str, String);

/// What happens to a call instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the connection ends.
    Reset,
    /// It is done, and the connection ends before the answer.
    Lost,
    /// It is refused with this code and status.
    Refused(&'static str, u16),
}

/// One that exists or did.
#[derive(Clone, Debug, Default)]
pub struct Made {
    pub id: String,
    pub name: String,
    pub status: String,
    pub template: String,
    pub tags: BTreeMap<String, String>,
    /// Resources that were left out of it.
    pub kept: BTreeSet<String>,
    pub before: String,
    pub events: Vec<String>,
    /// What is still to happen, a line for each look.
    pub ahead: VecDeque<String>,
    /// Change sets, by name.
    pub sets: BTreeMap<String, Set>,
    /// Resources that somebody changed by hand.
    pub drifted: BTreeSet<String>,
    /// Why not all of it can be compared.
    pub unseen: Option<&'static str>,
}

#[derive(Default)]
struct World {
    stacks: Vec<Made>,
    scripts: HashMap<String, VecDeque<Vec<String>>>,
    faults: HashMap<usize, Fault>,
    calls: Vec<String>,
}

/// The server.
#[derive(Clone)]
pub struct Cloud {
    world: Arc<Mutex<World>>,
    pub url: String,
}

// === impl Cloud ===

impl Cloud {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let world = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |r| answer(Arc::clone(&world), r));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { world, url }
    }

    /// What the next such call leads to, a line for each look: `RESOURCE STATUS why`, the stack's own begin with `- `.
    pub fn script(&self, action: &str, lines: &[&str]) {
        let lines = lines.iter().map(|l| (*l).to_owned()).collect();
        self.world.lock().scripts.entry(action.into()).or_default().push_back(lines);
    }

    /// To the call of this number, from 0.
    pub fn fault(&self, nth: usize, fault: Fault) {
        self.world.lock().faults.insert(nth, fault);
    }

    pub fn calls(&self) -> Vec<String> {
        self.world.lock().calls.clone()
    }

    pub fn stacks(&self) -> Vec<Made> {
        self.world.lock().stacks.clone()
    }

    /// Somebody changes a resource of the newest stack by hand.
    pub fn tamper(&self, resource: &str) {
        if let Some(s) = self.world.lock().stacks.last_mut() {
            s.drifted.insert(resource.to_owned());
        }
    }

    /// Not all of the newest stack can be compared.
    pub fn blind(&self, why: Option<&'static str>) {
        if let Some(s) = self.world.lock().stacks.last_mut() {
            s.unseen = why;
        }
    }

    /// One that was there before.
    pub fn put(&self, made: Made) {
        self.world.lock().stacks.push(made);
    }
}

async fn answer(
    world: Arc<Mutex<World>>,
    r: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let broken = || std::io::Error::other("as was asked for");
    let body = r.into_body().collect().await.map_err(|_| broken())?.to_bytes();
    let form: Form = form_urlencoded::parse(&body).into_owned().collect();
    let action = form.get("Action").cloned().unwrap_or_default();
    let mut w = world.lock();
    let nth = w.calls.len();
    w.calls.push(action.clone());
    let fault = w.faults.remove(&nth);
    let said = match fault {
        Some(Fault::Reset) => return Err(broken()),
        Some(Fault::Refused(code, status)) => return Ok(refusal(code, "as was asked for", status)),
        _ => w.call(&action, &form),
    };
    if fault == Some(Fault::Lost) {
        return Err(broken());
    }
    Ok(match said {
        Err((code, words)) => refusal(code, &words, 400),
        Ok(result) => xml(
            200,
            &format!(
                "<{action}Response xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><{action}Result>{result}\
                 </{action}Result><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
            ),
        ),
    })
}

fn refusal(code: &str, words: &str, status: u16) -> Response<Full<Bytes>> {
    let error = format!("<Type>Sender</Type><Code>{code}</Code><Message>{words}</Message>");
    xml(status, &format!("<ErrorResponse><Error>{error}</Error><RequestId>r</RequestId></ErrorResponse>"))
}

fn xml(status: u16, text: &str) -> Response<Full<Bytes>> {
    let mut r = Response::new(Full::new(Bytes::from(text.to_owned())));
    *r.status_mut() = StatusCode::from_u16(status).unwrap();
    r
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn members(form: &Form, list: &str) -> Vec<String> {
    (1..).map_while(|n| form.get(&format!("{list}.member.{n}")).cloned()).collect()
}

// === impl World ===

impl World {
    fn call(&mut self, action: &str, form: &Form) -> Result<String, Refused> {
        let text = |key: &str| form.get(key).cloned().unwrap_or_default();
        let (name, token) = (text("StackName"), text("ClientRequestToken"));
        if action == "CreateStack" {
            if self.stacks.iter().any(|s| s.name == name && s.status != "DELETE_COMPLETE") {
                return Err(("AlreadyExistsException", format!("Stack [{name}] already exists")));
            }
            let id =
                format!("arn:aws:cloudformation:us-east-1:123456789012:stack/{name}/{}", self.stacks.len());
            let tags = (1..).map_while(|n| {
                let of = |what: &str| form.get(&format!("Tags.member.{n}.{what}")).cloned();
                Some((of("Key")?, of("Value")?))
            });
            let tags = tags.collect();
            self.stacks.push(Made { id, name, template: text("TemplateBody"), tags, ..Made::default() });
            let at = self.stacks.len() - 1;
            self.begin(at, action, &token);
            return Ok(format!("<StackId>{}</StackId>", self.stacks[at].id));
        }
        if action == "DescribeStackDriftDetectionStatus" {
            return Ok(self.stacks.last().map(sets::detection).unwrap_or_default());
        }
        let by_name = |s: &Made| s.id == name || s.name == name && s.status != "DELETE_COMPLETE";
        let Some(at) = self.stacks.iter().position(by_name) else {
            // AWS has nothing against it
            let nothing = if action == "DeleteStack" { Ok(String::new()) } else { Err(()) };
            return nothing.map_err(|()| ("ValidationError", format!("Stack with id {name} does not exist")));
        };
        let status = self.stacks[at].status.clone();
        let state = |what: &str| {
            ("ValidationError", format!("Stack:{name} is in {status} state and can not be {what}."))
        };
        if let Some(said) = sets::call(&mut self.stacks[at], action, form) {
            return said;
        }
        match action {
            "DescribeStacks" => {
                self.stacks[at].happen();
                return Ok(self.stacks[at].described());
            }
            "DescribeStackEvents" => return Ok(self.stacks[at].told()),
            "GetTemplate" => {
                return Ok(format!("<TemplateBody>{}</TemplateBody>", escaped(&self.stacks[at].template)));
            }
            "UpdateStack" => {
                if !status.ends_with("_COMPLETE")
                    || ["ROLLBACK_COMPLETE", "DELETE_COMPLETE"].contains(&status.as_str())
                {
                    return Err(state("updated"));
                }
                if self.stacks[at].template == text("TemplateBody") {
                    return Err(("ValidationError", "No updates are to be performed.".into()));
                }
                let s = &mut self.stacks[at];
                s.before = std::mem::replace(&mut s.template, text("TemplateBody"));
            }
            "DeleteStack" => {
                let without = members(form, "RetainResources");
                if status.starts_with("UPDATE_") && status.ends_with("_IN_PROGRESS") {
                    return Err(state("deleted"));
                }
                if !without.is_empty() && status != "DELETE_FAILED" {
                    return Err(("ValidationError", "RetainResources is for DELETE_FAILED alone".into()));
                }
                if ["DELETE_IN_PROGRESS", "DELETE_COMPLETE"].contains(&status.as_str()) {
                    return Ok(String::new());
                }
                self.stacks[at].kept.extend(without);
            }
            "CancelUpdateStack" if status != "UPDATE_IN_PROGRESS" => return Err(state("cancelled")),
            "ContinueUpdateRollback" if status != "UPDATE_ROLLBACK_FAILED" => return Err(state("continued")),
            "RollbackStack" if status != "UPDATE_FAILED" => return Err(state("rolled back")),
            "CancelUpdateStack" | "ContinueUpdateRollback" | "RollbackStack" => {}
            _ => return Err(("InvalidAction", action.to_owned())),
        }
        self.begin(at, action, &token);
        Ok(String::new())
    }

    fn begin(&mut self, at: usize, action: &str, token: &str) {
        let usual: &[&str] = match action {
            "CreateStack" => &[
                "- CREATE_IN_PROGRESS",
                "Cluster CREATE_IN_PROGRESS",
                "Cluster CREATE_COMPLETE",
                "- CREATE_COMPLETE",
            ],
            "UpdateStack" => &[
                "- UPDATE_IN_PROGRESS",
                "Service UPDATE_COMPLETE",
                "- UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
                "- UPDATE_COMPLETE",
            ],
            "DeleteStack" => &["- DELETE_IN_PROGRESS", "Cluster DELETE_COMPLETE", "- DELETE_COMPLETE"],
            _ => &["- UPDATE_ROLLBACK_IN_PROGRESS", "Service UPDATE_COMPLETE", "- UPDATE_ROLLBACK_COMPLETE"],
        };
        let usual = || usual.iter().map(|l| (*l).to_owned()).collect();
        let lines = self.scripts.get_mut(action).and_then(VecDeque::pop_front).unwrap_or_else(usual);
        let s = &mut self.stacks[at];
        let mut lines: Vec<String> = lines;
        if action == "DeleteStack" {
            lines.splice(1..1, s.kept.iter().map(|k| format!("{k} DELETE_SKIPPED")));
        }
        s.ahead = lines.into_iter().map(|l| format!("{token}\t{l}")).collect();
        s.happen();
    }
}

// === impl Made ===

impl Made {
    fn happen(&mut self) {
        let Some(line) = self.ahead.pop_front() else { return };
        if let Some(status) = line.split_once("\t- ").map(|(_, l)| l.split(' ').next().unwrap_or_default()) {
            status.clone_into(&mut self.status);
            if status.starts_with("UPDATE_ROLLBACK_IN_PROGRESS") && !self.before.is_empty() {
                self.template = std::mem::take(&mut self.before);
            }
        }
        self.events.push(line);
    }

    fn described(&self) -> String {
        let mut out = format!(
            "<Stacks><member><StackId>{}</StackId><StackName>{}</StackName><StackStatus>{}</StackStatus>\
             <CreationTime>2026-11-27T00:00:00Z</CreationTime><Tags>",
            self.id, self.name, self.status
        );
        for (k, v) in &self.tags {
            let _ = write!(out, "<member><Key>{k}</Key><Value>{v}</Value></member>");
        }
        out.push_str("</Tags><Outputs><member><OutputKey>ClusterName</OutputKey><OutputValue>c</OutputValue></member></Outputs>");
        out.push_str("</member></Stacks>");
        out
    }

    fn told(&self) -> String {
        let mut out = String::from("<StackEvents>");
        for (n, line) in self.events.iter().enumerate().rev() {
            let (token, line) = line.split_once('\t').unwrap();
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (logical, status, why) = (word(), word(), word());
            let (logical, physical) =
                if logical == "-" { (self.name.as_str(), self.id.as_str()) } else { (logical, "physical") };
            let _ = write!(
                out,
                "<member><EventId>{n}</EventId><StackId>{}</StackId><StackName>{}</StackName>\
                 <LogicalResourceId>{logical}</LogicalResourceId><PhysicalResourceId>{physical}</PhysicalResourceId>\
                 <Timestamp>2026-11-27T00:00:00Z</Timestamp><ResourceStatus>{status}</ResourceStatus>\
                 <ResourceStatusReason>{}</ResourceStatusReason><ClientRequestToken>{token}</ClientRequestToken></member>",
                self.id,
                self.name,
                escaped(why)
            );
        }
        out.push_str("</StackEvents>");
        out
    }
}
