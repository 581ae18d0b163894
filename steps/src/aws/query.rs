//! The services whose SDK would cost minutes of compiling for a handful of reads (EC2, IAM, CloudWatch Logs): their query and JSON
//! protocols, signed as the SDK signs, on connections that are kept.
use super::client::{self, Refusal};
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::time::{Duration, SystemTime};
use syp_proto::journal::Failure;

/// An answer is never larger.
const MOST: usize = 8 << 20;
/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(30);
/// Reads may be asked again: so often, with a pause that doubles.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const JSON: &str = "application/x-amz-json-1.1";
/// Header of a JSON service's action.
const TARGET: &str = "x-amz-target";

/// A service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    name: &'static str,
    /// What its rights begin with, where that is another name.
    rights: Option<&'static str>,
    /// Of the API; or of a JSON service, what its actions have before them.
    version: &'static str,
    /// It has one endpoint for all regions, whose requests are signed for this one.
    global: Option<&'static str>,
    /// Each request costs: none is made twice by itself.
    paid: bool,
}

/// Networks.
pub const EC2: Service =
    Service { name: "ec2", rights: None, version: "2016-11-15", global: None, paid: false };
/// Roles and policies.
pub const IAM: Service =
    Service { name: "iam", rights: None, version: "2010-05-08", global: Some("us-east-1"), paid: false };

/// Bills.
pub const CE: Service = Service {
    name: "ce",
    rights: None,
    version: "AWSInsightsIndexService",
    global: Some("us-east-1"),
    paid: true,
};
/// List prices, of all regions.
pub const PRICING: Service = Service {
    name: "pricing",
    rights: None,
    version: "AWSPriceListService",
    global: Some("us-east-1"),
    paid: false,
};
/// Load balancers.
pub const BALANCERS: Service =
    Service { name: "elasticloadbalancing", rights: None, version: "2015-12-01", global: None, paid: false };
/// What an account may have at once.
pub const QUOTAS: Service = Service {
    name: "servicequotas",
    rights: None,
    version: "ServiceQuotasV20190624",
    global: None,
    paid: false,
};
/// Figures.
pub const CLOUDWATCH: Service = Service {
    name: "monitoring",
    rights: Some("cloudwatch"),
    version: "2010-08-01",
    global: None,
    paid: true,
};
/// Lines.
pub const LOGS: Service =
    Service { name: "logs", rights: None, version: "Logs_20140328", global: None, paid: false };

/// A request in one of both protocols.
struct Asked {
    content: &'static str,
    target: Option<String>,
    body: String,
}

/// Asks them.
#[derive(Clone, Debug)]
pub struct Query {
    config: SdkConfig,
    region: String,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// How both of them say no.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "Error")]
    error: Option<Error>,
    #[serde(rename = "Errors")]
    errors: Option<Errors>,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(rename = "Error")]
    error: Error,
}

#[derive(Default, Deserialize)]
struct Error {
    #[serde(rename = "Code", alias = "__type", default)]
    code: String,
    #[serde(rename = "Message", alias = "message", default)]
    message: String,
}

// === impl Service ===

impl Service {
    fn rights(self) -> &'static str {
        self.rights.unwrap_or(self.name)
    }
}

// === impl Query ===

impl Query {
    /// With the credentials and the endpoint of a configuration.
    ///
    /// # Errors
    /// The system's certificate authorities can't be read.
    pub fn new(config: &SdkConfig, region: &str) -> Result<Self, Failure> {
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|e| client::unreachable("EC2", &format!("the system's certificate authorities: {e}")))?
            .https_or_http()
            .enable_http1()
            .build();
        let http = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self { config: config.clone(), region: region.to_owned(), http })
    }

    /// Reads by the query protocol.
    ///
    /// # Errors
    /// AWS', as [`client::failed`] says them.
    pub async fn read<T: DeserializeOwned>(
        &self,
        service: Service,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", service.version)
            .extend_pairs(parameters)
            .finish();
        let asked = Asked { content: FORM, target: None, body };
        let text = self.asked(service, action, &asked).await?;
        let wrong = |e: &dyn std::fmt::Display| unreadable(service, action, e);
        quick_xml::de::from_str(&text).map_err(|e| wrong(&e))
    }

    /// Reads by the JSON protocol.
    ///
    /// # Errors
    /// The same.
    pub async fn json<T: DeserializeOwned>(
        &self,
        service: Service,
        action: &str,
        body: &serde_json::Value,
    ) -> Result<T, Failure> {
        let target = Some(format!("{}.{action}", service.version));
        let asked = Asked { content: JSON, target, body: body.to_string() };
        let text = self.asked(service, action, &asked).await?;
        serde_json::from_str(&text).map_err(|e| unreadable(service, action, &e))
    }

    async fn asked(&self, service: Service, action: &str, asked: &Asked) -> Result<String, Failure> {
        let call = format!("{}:{action}", service.rights());
        let mut pause = PAUSE;
        for _ in 1..if service.paid { 1 } else { TRIES } {
            match self.once(service, asked).await {
                Err(r) if r.passes() => tokio::time::sleep(pause).await,
                done => return done.map_err(|r| r.failure(&call)),
            }
            pause *= 2;
        }
        self.once(service, asked).await.map_err(|r| r.failure(&call))
    }

    async fn once(&self, service: Service, asked: &Asked) -> Result<String, Refusal> {
        let request = self.signed(service, asked).await?;
        let answered = async {
            let answer = self.http.request(request).await.map_err(|e| Refusal::lost(&e))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MOST).collect().await;
            Ok::<_, Refusal>((status, body.map_err(|e| Refusal::Lost(e.to_string()))?.to_bytes()))
        };
        let late = |_| Refusal::Lost("no answer in time".into());
        let (status, body) = tokio::time::timeout(ANSWER, answered).await.map_err(late)??;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status == 200 { Ok(text) } else { Err(refusal(&text, status)) }
    }

    async fn signed(&self, service: Service, asked: &Asked) -> Result<Request<Full<Bytes>>, Refusal> {
        let region = service.global.unwrap_or(&self.region);
        let url = self.endpoint(service);
        let provider = self.config.credentials_provider();
        let provider = provider.ok_or_else(|| Refusal::Credentials("there are none".into()))?;
        let credentials = provider.provide_credentials().await;
        let identity = credentials.map_err(|e| Refusal::Credentials(client::chain(&e)))?.into();
        let internal = |e: &dyn std::fmt::Display| Refusal::Lost(e.to_string());
        let how = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|e| internal(&e))?;
        let mut headers = vec![(header::CONTENT_TYPE.as_str(), asked.content)];
        headers.extend(asked.target.as_deref().map(|t| (TARGET, t)));
        let bytes = SignableBody::Bytes(asked.body.as_bytes());
        let signable = SignableRequest::new("POST", &url, headers.iter().copied(), bytes);
        let signed = sign(signable.map_err(|e| internal(&e))?, &how.into()).map_err(|e| internal(&e))?;
        let (instructions, _) = signed.into_parts();
        let request = headers.iter().fold(Request::post(&url), |r, (name, value)| r.header(*name, *value));
        let body = Full::new(Bytes::from(asked.body.clone()));
        let mut request = request.body(body).map_err(|e| internal(&e))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }

    /// Where it answers: what the environment says as for the SDK's own clients, or AWS' (general reference, "Service endpoints").
    fn endpoint(&self, service: Service) -> String {
        let own = std::env::var(format!("AWS_ENDPOINT_URL_{}", service.rights().to_uppercase())).ok();
        if let Some(url) = own.as_deref().or_else(|| self.config.endpoint_url()) {
            return format!("{}/", url.trim_end_matches('/'));
        }
        let (partition, place) = client::partition(&self.region);
        match service.global {
            // one host of its own, or that of its only region
            Some(_) if partition == "aws" && service.name == "iam" => {
                format!("https://{}.{place}/", service.name)
            }
            Some(region) if partition == "aws" && service.name == "pricing" => {
                format!("https://api.pricing.{region}.{place}/")
            }
            Some(region) if partition == "aws" => format!("https://{}.{region}.{place}/", service.name),
            _ => format!("https://{}.{}.{place}/", service.name, self.region),
        }
    }
}

fn unreadable(service: Service, action: &str, e: &dyn std::fmt::Display) -> Failure {
    client::unreachable(&format!("{}:{action}", service.rights()), &format!("its answer can't be read: {e}"))
}

/// How either protocol says no. Pure.
fn refusal(text: &str, status: u16) -> Refusal {
    let json = serde_json::from_str::<Error>(text).ok();
    let xml = || {
        quick_xml::de::from_str::<Said>(text).ok().and_then(|s| s.error.or_else(|| s.errors.map(|e| e.error)))
    };
    let error = json.or_else(xml).unwrap_or_default();
    // some services put a namespace before it
    let code = error.code.rsplit('#').next().unwrap_or_default().to_owned();
    Refusal::Said { code, words: error.message, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_in_either_protocol() {
        let of = |text: &str| refusal(text, 400).failure("logs:FilterLogEvents");
        let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
        assert_eq!(of(denied).reason, "RIGHTS_MISSING");
        let ec2 = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>";
        assert_eq!(of(ec2).reason, "RIGHTS_MISSING");
        let json = "{\"__type\":\"com.amazonaws.logs#ThrottlingException\",\"message\":\"slow\"}";
        assert_eq!(of(json).reason, "PROVIDER_THROTTLED");
        assert_eq!(of("<html>").reason, "PROVIDER_REFUSED");
    }
}
