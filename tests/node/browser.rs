//! A real browser against the built node. Needs Chromium: `tools/test browser` installs it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::Node;

/// Connects with a token, sends a Ping and waits for its Pong; then connects without a token and
/// with a bad one. Tells the server of the page how each went.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>browser</title><script>
let all = '';
const said = (name, text) => { all += name + ': ' + text + '\n'; };
const play = (name, url, protocols) => new Promise(done => {
  const socket = new WebSocket(url, protocols);
  socket.binaryType = 'arraybuffer';
  let messages = 0;
  socket.onmessage = event => {
    messages += 1;
    if (messages === 1) {
      // A ClientFrame: request 7, Ping with the data "x".
      socket.send(new Uint8Array([0x08, 7, 0x62, 3, 0x0a, 1, 0x78]));
    } else {
      said(name, 'pong ' + Array.from(new Uint8Array(event.data)).join(' ')
        + ' over ' + socket.protocol);
      socket.close(1000);
    }
  };
  socket.onclose = event => {
    said(name, messages === 0 ? 'refused' : 'closed ' + event.code);
    done();
  };
});
(async () => {
  await play('good', 'URL', ['arqon.v1', 'bearer.TOKEN']);
  await play('none', 'URL', ['arqon.v1']);
  await play('bad', 'URL', ['arqon.v1', 'bearer.a.b.c']);
  await fetch('/said', { method: 'POST', body: all });
})();
</script>"#;

/// Serves the page to whoever asks, and hands on what the page says in the end.
fn serve(page: String) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (said, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            drop(answer(&stream, &page, &said));
        }
    });
    (address, heard)
}

fn answer(stream: &TcpStream, page: &str, said: &Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    let post = line.starts_with("POST");
    while line.trim_end() != "" {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
        reader.read_line(&mut line)?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if post {
        drop(said.send(String::from_utf8_lossy(&body).into_owned()));
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    )
}

/// Chromium, ended when it is dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let chromium = std::env::var("ARQONBUS_CHROMIUM").unwrap_or_else(|_| "chromium".into());
        let child = Command::new(chromium)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium runs; `tools/test browser` installs it");
        Self {
            child,
            _profile: profile,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

// EDGE-02, EDGE-04, EDGE-12
#[test]
#[ignore = "needs Chromium: `tools/test browser`"]
fn a_browser_connects_with_a_token_and_is_refused_without() {
    let node = Node::dev();
    let page = PAGE
        .replace("URL", &format!("ws://{}/v1/ws", node.edge))
        .replace("TOKEN", &node.dev_token());
    let (page, heard) = serve(page);
    let _browser = Browser::open(&format!("http://{page}/"));
    let seen = heard
        .recv_timeout(Duration::from_secs(60))
        .expect("the page says how it went");
    for said in [
        "good: pong 8 7 90 3 10 1 120 over arqon.v1",
        "good: closed 1000",
        "none: refused",
        "bad: refused",
    ] {
        assert!(seen.contains(said), "{said}: {seen}");
    }
}
