//! How a session with a process tells the client what came of it: the error stream.
//!
//! Since v4 it carries one JSON object, a Kubernetes `metav1.Status`; before, it carried text, and
//! nothing when all went well. Clients read the exit code from `details.causes`, and the fields that
//! are empty are left out, as the kubelet's server does.

use crate::request::Exit;
use serde::Serialize;

/// What the error stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusForm {
    Text,
    Json,
}

/// `metav1.Status`, as much of it as is used.
#[derive(Debug, Default, Serialize)]
struct Status<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Cause<'a> {
    reason: &'a str,
    message: String,
}

/// What to say of an exit.
pub(crate) fn exit(form: StatusForm, exit: &Exit) -> Vec<u8> {
    match exit {
        Exit::Code(0) | Exit::Detached => success(form),
        Exit::Code(code) => nonzero(form, *code),
        Exit::Unknown(reason) => failure(form, reason),
    }
}

fn success(form: StatusForm) -> Vec<u8> {
    let status = Status {
        status: "Success",
        ..Status::default()
    };
    match form {
        StatusForm::Text => Vec::new(),
        StatusForm::Json => json(&status),
    }
}

fn nonzero(form: StatusForm, code: u8) -> Vec<u8> {
    let message = format!("command terminated with non-zero exit code: exit status {code}");
    if form == StatusForm::Text {
        return message.into_bytes();
    }
    let cause = Cause {
        reason: "ExitCode",
        message: code.to_string(),
    };
    json(&Status {
        status: "Failure",
        message: Some(message),
        reason: Some("NonZeroExitCode"),
        details: Some(Details { causes: [cause] }),
        code: None,
    })
}

/// Something went wrong that is not the process's doing.
pub(crate) fn failure(form: StatusForm, reason: &str) -> Vec<u8> {
    let message = format!("Internal error occurred: {reason}");
    if form == StatusForm::Text {
        return message.into_bytes();
    }
    json(&Status {
        status: "Failure",
        message: Some(message),
        reason: Some("InternalError"),
        details: None,
        code: Some(500),
    })
}

fn json(status: &Status<'_>) -> Vec<u8> {
    serde_json::to_vec(status).expect("strings and numbers can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn clients_of_v4_read_the_exit_code_from_a_status() {
        assert_eq!(
            text(exit(StatusForm::Json, &Exit::Code(0))),
            r#"{"status":"Success"}"#
        );
        assert_eq!(
            text(exit(StatusForm::Json, &Exit::Detached)),
            r#"{"status":"Success"}"#
        );
        assert_eq!(
            text(exit(StatusForm::Json, &Exit::Code(137))),
            concat!(
                r#"{"status":"Failure","#,
                r#""message":"command terminated with non-zero exit code: exit status 137","#,
                r#""reason":"NonZeroExitCode","#,
                r#""details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#
            )
        );
        assert_eq!(
            text(failure(StatusForm::Json, "no \"such\" file")),
            concat!(
                r#"{"status":"Failure","message":"Internal error occurred: no \"such\" file","#,
                r#""reason":"InternalError","code":500}"#
            )
        );
    }

    #[test]
    fn older_clients_get_text_and_nothing_after_success() {
        assert_eq!(text(exit(StatusForm::Text, &Exit::Code(0))), "");
        assert_eq!(
            text(exit(StatusForm::Text, &Exit::Code(3))),
            "command terminated with non-zero exit code: exit status 3"
        );
        assert_eq!(
            text(exit(StatusForm::Text, &Exit::Unknown("lost".to_owned()))),
            "Internal error occurred: lost"
        );
    }
}
