//! The one URL: which service and action a request means, what is answered here, and what is handed on.
use super::{
    billing, cloudformation, ecs, logs, network, prices, quotas, relay, tags,
    world::{Fault, Shared},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header,
    http::{HeaderMap, HeaderValue, request::Parts},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

/// Of a plague: calls of one name that it meets. One that reads is tried again by any client; of the others more than a client of the
/// SDK tries, so that the step itself fails.
const READS: usize = 1;
const WRITES: usize = 5;

/// Fields of a query.
pub type Form = HashMap<String, String>;
pub type Answer = Response<Full<Bytes>>;

/// A call that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: String,
    pub words: String,
    pub status: u16,
}

/// What a request asks for.
struct Call {
    /// As IAM writes it: `cloudformation`, `tag`, ...
    service: String,
    action: String,
    said: Said,
}

/// How it says so.
enum Said {
    Query(Form),
    Json(Value),
}

/// Targets of the services that speak JSON.
const TARGETS: [(&str, &str); 8] = [
    ("ServiceQuotasV20190624", "servicequotas"),
    ("AWSPriceListService", "pricing"),
    ("AWSInsightsIndexService", "ce"),
    ("AmazonEC2ContainerServiceV20141113", "ecs"),
    ("ResourceGroupsTaggingAPI_20170126", "tag"),
    ("Logs_20140328", "logs"),
    ("secretsmanager", "secretsmanager"),
    ("CertificateManager", "acm"),
];
/// Versions of those that speak in queries.
const VERSIONS: [(&str, &str); 6] = [
    ("2015-12-01", "elasticloadbalancing"),
    ("2010-05-15", "cloudformation"),
    ("2016-11-15", "ec2"),
    ("2011-06-15", "sts"),
    ("2010-05-08", "iam"),
    ("2010-08-01", "cloudwatch"),
];

// === impl Refused ===

impl Refused {
    /// With status 400.
    pub fn new(code: &str, words: impl Into<String>) -> Self {
        Self { code: code.to_owned(), words: words.into(), status: 400 }
    }

    /// CloudFormation's and EC2's word for almost everything.
    pub fn invalid(words: impl Into<String>) -> Self {
        Self::new("ValidationError", words)
    }

    fn answer(&self, said: &Said) -> Answer {
        let Self { code, words, status } = self;
        match said {
            Said::Json(_) => {
                let mut answer = json_answer(*status, &json!({ "__type": code, "message": words }));
                if let Ok(code) = HeaderValue::from_str(code) {
                    answer.headers_mut().insert("x-amzn-errortype", code);
                }
                answer
            }
            // EC2 has a form of its own, and its clients read this one all the same
            Said::Query(_) => {
                let error =
                    format!("<Type>Sender</Type><Code>{code}</Code><Message>{}</Message>", escaped(words));
                xml(
                    *status,
                    &format!("<ErrorResponse><Error>{error}</Error><RequestId>r</RequestId></ErrorResponse>"),
                )
            }
        }
    }
}

/// Answers on a free port from now on.
pub async fn serve(shared: Arc<Shared>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let service = service_fn(move |r| answer(Arc::clone(&shared), r));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(at)
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Answer> {
    let broken = || io::Error::other("as was asked for");
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let call = Call::read(&parts.headers, &body);
    let fault = shared.with(|w| count(w, &format!("{}:{}", call.service, call.action)));
    match fault {
        Some(Fault::Reset) => return Err(broken()),
        Some(Fault::Refused(code, status)) => {
            let refused = Refused { status, ..Refused::new(code, "as was asked for") };
            return Ok(refused.answer(&call.said));
        }
        _ => {}
    }
    let relayed = match &call.said {
        Said::Query(form) if shared.behind.keeps && call.service == "cloudformation" => {
            relay::call(&shared, &call.action, form, &parts, &body).await?
        }
        _ => None,
    };
    let here = if relayed.is_some() { relayed } else { call.here(&shared).await };
    let done = match here {
        Some(Ok(answer)) => answer,
        Some(Err(refused)) => refused.answer(&call.said),
        None => hand_on(&shared, parts, body).await?,
    };
    if fault == Some(Fault::Lost) { Err(broken()) } else { Ok(done) }
}

fn only_reads(call: &str) -> bool {
    let action = call.split_once(':').map_or(call, |(_, action)| action);
    ["Describe", "Filter", "Get", "List"].iter().any(|verb| action.starts_with(verb))
}

/// Writes a call down; the fault that is meant for it.
fn count(w: &mut super::world::World, call: &str) -> Option<Fault> {
    w.calls.push(call.to_owned());
    if let Some(fault) = w.plague {
        let met = w.met.entry(call.to_owned()).or_default();
        let most = if only_reads(call) { READS } else { WRITES };
        if *met < most {
            *met += 1;
            return Some(fault);
        }
    }
    let at = w.faults.iter().position(|(name, nth, _)| name == call && *nth == 0);
    let fault = at.map(|at| w.faults.remove(at).2);
    for (_, nth, _) in w.faults.iter_mut().filter(|(name, ..)| name == call) {
        *nth = nth.saturating_sub(1);
    }
    fault
}

/// The emulator's answer.
pub async fn hand_on(shared: &Shared, parts: Parts, body: Bytes) -> io::Result<Answer> {
    let mut answer = shared.behind.hand_on(Request::from_parts(parts, Full::new(body))).await?;
    // its connection is another one
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        answer.headers_mut().remove(name);
    }
    Ok(answer)
}

// === impl Call ===

impl Call {
    fn read(headers: &HeaderMap, body: &Bytes) -> Self {
        let of = |table: &[(&str, &str)], key: &str| {
            table
                .iter()
                .find(|(k, _)| *k == key)
                .map_or_else(|| key.to_owned(), |(_, name)| (*name).to_owned())
        };
        if let Some((service, action)) =
            headers.get("x-amz-target").and_then(|t| t.to_str().ok()).and_then(|t| t.split_once('.'))
        {
            let said = Said::Json(serde_json::from_slice(body).unwrap_or_default());
            return Self { service: of(&TARGETS, service), action: action.to_owned(), said };
        }
        let form: Form = form_urlencoded::parse(body).into_owned().collect();
        let field = |key: &str| form.get(key).cloned().unwrap_or_default();
        Self { service: of(&VERSIONS, &field("Version")), action: field("Action"), said: Said::Query(form) }
    }

    /// `None`: it is for the emulator.
    async fn here(&self, shared: &Arc<Shared>) -> Option<Result<Answer, Refused>> {
        let done = match (self.service.as_str(), self.action.as_str(), &self.said) {
            ("cloudformation", action, Said::Query(form)) => {
                cloudformation::call(shared, action, form).map(|result| query_answer(action, &result))
            }
            ("ec2", "DescribeNetworkInterfaces", Said::Query(form)) => {
                network::describe(shared, form).map(|text| xml(200, &text))
            }
            ("ecs", action, Said::Json(asked)) => {
                ecs::call(shared, action, asked).map(|v| json_answer(200, &v))
            }
            ("ce", "GetCostAndUsage", Said::Json(asked)) => {
                Ok(json_answer(200, &billing::get(shared, asked)))
            }
            ("pricing", "GetProducts", Said::Json(asked)) => Ok(json_answer(200, &prices::get(asked))),
            ("servicequotas", "GetServiceQuota", Said::Json(asked)) => {
                quotas::get(shared, asked).map(|v| json_answer(200, &v))
            }
            ("elasticloadbalancing", "DescribeLoadBalancers", _) => Ok(xml(200, &quotas::balancers(shared))),
            ("tag", "GetResources", Said::Json(asked)) => {
                tags::get(shared, asked).await.map(|v| json_answer(200, &v))
            }
            ("logs", action, Said::Json(asked)) => {
                logs::call(shared, action, asked).await.map(|v| json_answer(200, &v))
            }
            _ => return None,
        };
        Some(done)
    }
}

/// An answer of CloudFormation's.
pub fn query_answer(action: &str, result: &str) -> Answer {
    xml(
        200,
        &format!(
            "<{action}Response xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><{action}Result>{result}\
             </{action}Result><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
        ),
    )
}

fn json_answer(status: u16, value: &Value) -> Answer {
    typed(status, "application/x-amz-json-1.1", value.to_string())
}

fn xml(status: u16, text: &str) -> Answer {
    typed(status, "text/xml", text.to_owned())
}

fn typed(status: u16, kind: &'static str, text: String) -> Answer {
    let mut r = Response::new(Full::new(Bytes::from(text)));
    *r.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    r
}

/// As text of an XML element.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An XML element; none without text.
pub fn element(name: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<{name}>{}</{name}>", escaped(text)) }
}
