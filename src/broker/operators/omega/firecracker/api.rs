//! Firecracker's API: HTTP/1.1 over a Unix socket, one request after the other.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::UnixStream;

use super::home::{Home, host};
use super::{Failed, Setup, Spec};

/// What is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is shown of a fault, in characters.
const FAULT_CHARS_MAX: usize = 512;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The guest's address on its socket to the host; each machine has a socket of its own.
const GUEST_CID: u64 = 3;
/// What a machine is in when its guest runs.
pub(super) const RUNNING: &str = "Running";

/// A connection to a machine's API.
#[derive(Debug)]
pub(super) struct Api(SendRequest<Full<Bytes>>);

/// A request of the setup: what it is for people, its path, its body.
pub(super) type Step = (&'static str, &'static str, Json);

/// What makes a machine, in the order in which it is asked for.
pub(super) fn steps(setup: &Setup, spec: &Spec, home: &Home) -> Vec<Step> {
    let path = |path: std::path::PathBuf| Json::from(path.to_string_lossy().into_owned());
    let mut steps = vec![
        (
            "PUT /machine-config",
            "/machine-config",
            json!({
                "vcpu_count": spec.vcpus,
                "mem_size_mib": spec.memory_mib,
                "smt": false,
            }),
        ),
        (
            "PUT /boot-source",
            "/boot-source",
            json!({
                "kernel_image_path": path(home.named_kernel(setup)),
                "boot_args": setup.boot_args,
            }),
        ),
        (
            "PUT /drives/rootfs",
            "/drives/rootfs",
            json!({
                "drive_id": "rootfs",
                "path_on_host": path(home.named_root(setup)),
                "is_root_device": true,
                "is_read_only": true,
            }),
        ),
    ];
    if setup.overlay.is_some() {
        steps.push((
            "PUT /drives/overlay",
            "/drives/overlay",
            json!({
                "drive_id": "overlay",
                "path_on_host": path(home.named_overlay()),
                "is_root_device": false,
                "is_read_only": false,
            }),
        ));
    }
    if setup.vsock {
        steps.push((
            "PUT /vsock",
            "/vsock",
            json!({ "guest_cid": GUEST_CID, "uds_path": path(home.named_vsock()) }),
        ));
    }
    steps.push((
        "PUT /actions InstanceStart",
        "/actions",
        json!({ "action_type": "InstanceStart" }),
    ));
    steps
}

impl Api {
    /// Connects, if somebody listens.
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failed> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(host("its API does not answer"))?;
        let handshake = http1::Builder::new()
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| unheard("connecting", &error))?;
        // Ends with the sender, or when the other side closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a machine's API");
            }
        });
        Ok(Self(sender))
    }

    pub(super) async fn put(&mut self, (request, path, body): &Step) -> Result<(), Failed> {
        let body = Bytes::from(body.to_string());
        self.ask(request, Method::PUT, path, body).await.map(drop)
    }

    /// What the machine is in.
    pub(super) async fn state(&mut self) -> Result<String, Failed> {
        let request = "GET /";
        let about = self.ask(request, Method::GET, "/", Bytes::new()).await?;
        let about: Json =
            serde_json::from_slice(&about).map_err(|error| unheard(request, &error))?;
        match about["state"].as_str() {
            Some(state) => Ok(state.chars().take(64).collect()),
            None => Err(unheard(request, &"no state")),
        }
    }

    async fn ask(
        &mut self,
        request: &'static str,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Bytes, Failed> {
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let mut asked = Request::new(Full::new(body));
            *asked.method_mut() = method;
            *asked.uri_mut() = hyper::Uri::from_static(path);
            let headers = asked.headers_mut();
            headers.insert(HOST, hyper::header::HeaderValue::from_static("localhost"));
            let json = hyper::header::HeaderValue::from_static("application/json");
            headers.insert(ACCEPT, json.clone());
            headers.insert(CONTENT_TYPE, json);
            let ready = self.0.ready().await;
            ready.map_err(|error| unheard(request, &error))?;
            let answer = self.0.send_request(asked).await;
            let answer = answer.map_err(|error| unheard(request, &error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| unheard(request, &error))?;
            Ok((status, body.to_bytes()))
        });
        let (status, body) = match answered.await {
            Ok(answered) => answered?,
            Err(_elapsed) => return Err(unheard(request, &"nothing in time")),
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(Failed::Refused {
            request,
            fault: fault(status, &body),
        })
    }
}

/// Why Firecracker refuses: `{"fault_message": ..}`.
fn fault(status: StatusCode, body: &[u8]) -> String {
    let said: Option<Json> = serde_json::from_slice(body).ok();
    let said = said
        .as_ref()
        .and_then(|said| said["fault_message"].as_str());
    said.map_or_else(
        || format!("status {}", status.as_u16()),
        |said| said.chars().take(FAULT_CHARS_MAX).collect(),
    )
}

fn unheard(request: &'static str, what: &dyn std::fmt::Display) -> Failed {
    let what = what.to_string();
    Failed::Unheard { request, what }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Jailer;
    use super::super::order::arguments;
    use super::*;

    fn setup() -> Setup {
        Setup {
            binary: "/opt/firecracker".into(),
            jailer: None,
            kernel: "/images/vmlinux".into(),
            root: "/images/root.ext4".into(),
            overlay: None,
            boot_args: "panic=1".into(),
            vsock: false,
            workspace: "/srv/omega".into(),
            console_bytes_max: 1 << 20,
        }
    }

    fn spec() -> Spec {
        Spec {
            id: "omega-vm-1".into(),
            vcpus: 2,
            memory_mib: 128,
        }
    }

    fn paths(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|(_, path, _)| *path).collect()
    }

    // OPS-10
    #[test]
    fn a_bare_machine_is_asked_for_with_paths_of_the_host() {
        let (setup, spec) = (setup(), spec());
        let home = Home::of(&setup, &spec.id, false);
        let steps = steps(&setup, &spec, &home);
        let all = [
            "/machine-config",
            "/boot-source",
            "/drives/rootfs",
            "/actions",
        ];
        assert_eq!(paths(&steps), all);
        let config = json!({"vcpu_count": 2, "mem_size_mib": 128, "smt": false});
        assert_eq!(steps[0].2, config);
        assert_eq!(steps[1].2["kernel_image_path"], "/images/vmlinux");
        assert_eq!(steps[2].2["path_on_host"], "/images/root.ext4");
        assert_eq!(steps[2].2["is_read_only"], true);
        assert_eq!(steps[3].2, json!({"action_type": "InstanceStart"}));
        let line = arguments(&setup, &spec, &home, &setup.binary);
        let wanted = [
            "--api-sock",
            "/srv/omega/omega-vm-1/api.sock",
            "--id",
            "omega-vm-1",
        ];
        assert_eq!(line, wanted);
    }

    // OPS-10
    #[test]
    fn a_jailed_machine_is_asked_for_with_paths_of_its_jail() {
        let setup = Setup {
            jailer: Some(Jailer {
                binary: "jailer".into(),
                uid: 1_000,
                gid: 1_001,
            }),
            overlay: Some("/images/overlay.ext4".into()),
            vsock: true,
            ..setup()
        };
        let spec = spec();
        let home = Home::of(&setup, &spec.id, true);
        let steps = steps(&setup, &spec, &home);
        let all = [
            "/machine-config",
            "/boot-source",
            "/drives/rootfs",
            "/drives/overlay",
            "/vsock",
            "/actions",
        ];
        assert_eq!(paths(&steps), all);
        assert_eq!(steps[1].2["kernel_image_path"], "/kernel");
        assert_eq!(steps[2].2["path_on_host"], "/rootfs");
        assert_eq!(steps[3].2["path_on_host"], "/overlay");
        assert_eq!(steps[3].2["is_read_only"], false);
        assert_eq!(steps[4].2, json!({"guest_cid": 3, "uds_path": "/v.sock"}));
        let socket = PathBuf::from("/srv/omega/firecracker/omega-vm-1/root/api.sock");
        assert_eq!(home.api_socket(), socket);
        let line = arguments(&setup, &spec, &home, &setup.binary);
        let line: Vec<_> = line.iter().map(|one| one.to_string_lossy()).collect();
        assert_eq!(
            line.join(" "),
            "--id omega-vm-1 --exec-file /opt/firecracker --uid 1000 --gid 1001 \
             --chroot-base-dir /srv/omega --cgroup-version 2 --cgroup memory.max=201326592 \
             --cgroup cpu.max=300000 100000 -- --api-sock /api.sock"
        );
    }

    // OPS-10
    #[test]
    fn a_fault_is_what_the_machine_says_and_bounded() {
        let said = br#"{"fault_message": "no kernel"}"#;
        assert_eq!(fault(StatusCode::BAD_REQUEST, said), "no kernel");
        assert_eq!(fault(StatusCode::BAD_REQUEST, b"<html>"), "status 400");
        let long = json!({"fault_message": "x".repeat(10_000)}).to_string();
        let shown = fault(StatusCode::BAD_REQUEST, long.as_bytes());
        assert_eq!(shown.len(), FAULT_CHARS_MAX);
    }
}
