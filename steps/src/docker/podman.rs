//! Words of podman that the Docker API does not have.
use bollard::errors::Error;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The answer, also where it tells of a container between the end of its process and its clean-up: podman 4.3 hands its own word
/// `stopped` through, which the API calls `exited` (libpod/define/containerstate.go).
///
/// # Errors
/// Those that came.
pub fn understood<T: DeserializeOwned>(answer: Result<T, Error>) -> Result<T, Error> {
    answer.or_else(|e| {
        let read = match &e {
            Error::JsonDataError { contents, .. } => exited(contents),
            _ => None,
        };
        read.ok_or(e)
    })
}

/// Of one container (`State.Status`) or of a list of them (`State`).
fn exited<T: DeserializeOwned>(json: &str) -> Option<T> {
    let mut answer = serde_json::from_str(json).ok()?;
    let words: Vec<&mut Value> = match &mut answer {
        Value::Array(all) => all.iter_mut().filter_map(|c| c.get_mut("State")).collect(),
        one => one.pointer_mut("/State/Status").into_iter().collect(),
    };
    for word in words {
        if *word == "stopped" {
            *word = "exited".into();
        }
    }
    serde_json::from_value(answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary};

    fn unknown(contents: &str) -> Error {
        Error::JsonDataError { message: "unknown variant".into(), contents: contents.into(), column: 1 }
    }

    #[test]
    fn a_container_that_has_just_stopped_has_exited() {
        let one = r#"{"Name":"/a","State":{"Status":"stopped","Running":false,"ExitCode":3}}"#;
        let c: ContainerInspectResponse = understood(Err(unknown(one))).unwrap();
        let state = c.state.unwrap();
        assert_eq!((state.status, state.exit_code), (Some(ContainerStateStatusEnum::EXITED), Some(3)));
        let two = r#"[{"Id":"a","State":"stopped"},{"Id":"b","State":"running"}]"#;
        let all: Vec<ContainerSummary> = understood(Err(unknown(two))).unwrap();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_nobody_understands_stays_an_error() {
        let odd = understood::<ContainerInspectResponse>(Err(unknown(r#"{"State":{"Status":"confused"}}"#)));
        assert!(matches!(odd, Err(Error::JsonDataError { .. })));
        assert!(understood::<ContainerInspectResponse>(Err(Error::RequestTimeoutError)).is_err());
    }
}
