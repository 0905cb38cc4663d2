//! `arqon operators work`: a shell command as an operator.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arqonbus::client::{Job, Refusal, Yield};
use clap::Args;

use super::join::Join;
use crate::bounds;
use crate::connection::{Patience, Target, interrupt};
use crate::failure::Failure;

/// Longest output of a command.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// How much of what it writes to standard error goes into an error's text.
const ERROR_BYTES_MAX: u64 = 512;
/// How often a command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The exit code that means that another attempt would not succeed (EX_DATAERR of sysexits).
const DATA_ERROR: i32 = 65;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    join: Join,

    /// The command that carries out a task, for `sh -c`
    #[arg(long, value_name = "COMMAND")]
    exec: String,

    /// Kill the command after this
    #[arg(long, default_value = "10m", value_parser = bounds::span, value_name = "SPAN")]
    timeout: Duration,

    /// Media type of what the command writes
    #[arg(long, default_value = "application/octet-stream", value_name = "TYPE")]
    output_type: String,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<()> {
    let client = target.connect(Patience::Reconnect).await?.client;
    let options = arguments.join.options("work");
    let (group, instance) = (options.group.clone(), options.instance.clone());
    let grace = arguments.join.grace;
    let shell = Arc::new(Shell {
        command: arguments.exec,
        timeout: arguments.timeout,
        output_type: arguments.output_type,
    });
    let carry_out = move |job: Job| {
        let shell = Arc::clone(&shell);
        async move { shell.carry_out(job).await }
    };
    let mut operator = client.work(options, carry_out).await?;
    tracing::info!(group, instance, "at work");
    tokio::select! {
        error = operator.ended() => return Err(error.into()),
        () = interrupt() => {}
    }
    let left = operator.drain(grace).await;
    client.close().await;
    if left > 0 {
        let text = format!("{left} tasks were not done in time; the node gives them to others");
        return Err(Failure::failed(text).into());
    }
    Ok(())
}

#[derive(Debug)]
struct Shell {
    command: String,
    timeout: Duration,
    output_type: String,
}

/// Turns true when nobody waits for the outcome any more.
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn failed(code: &str, message: impl Into<String>, retryable: bool) -> Refusal {
    Refusal {
        code: code.to_owned(),
        message: message.into(),
        retryable,
        retry_after: Duration::ZERO,
    }
}

impl Shell {
    async fn carry_out(self: Arc<Self>, job: Job) -> Result<Yield, Refusal> {
        let flag = Arc::new(AtomicBool::new(false));
        let _abandoned = Abandoned(Arc::clone(&flag));
        let done = tokio::task::spawn_blocking(move || self.run(&job, &flag));
        done.await
            .unwrap_or_else(|error| Err(failed("WORKER_PANIC", error.to_string(), true)))
    }

    fn run(&self, job: &Job, abandoned: &AtomicBool) -> Result<Yield, Refusal> {
        let traceparent = job.headers.get("traceparent").map_or("", String::as_str);
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .env("ARQON_TASK_ID", &job.id)
            .env("ARQON_TASK_ATTEMPT", job.attempt.to_string())
            .env("ARQON_TASK_GROUP", &job.group)
            .env("ARQON_TASK_KEY", &job.key)
            .env("TRACEPARENT", traceparent)
            // What may be done on the bus is no business of what is run.
            .env_remove("ARQON_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| failed("SPAWN", format!("sh: {error}"), true))?;
        let payload = job.payload.clone();
        let stdin = child.stdin.take();
        // Of their own each: a command may write before it has read.
        let feeding =
            std::thread::spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&payload)));
        let stdout = child.stdout.take();
        let reading = std::thread::spawn(move || read(stdout, OUTPUT_BYTES_MAX + 1));
        let stderr = child.stderr.take();
        let complaining = std::thread::spawn(move || read(stderr, ERROR_BYTES_MAX));
        let status = self.wait(&mut child, abandoned);
        let output = reading.join().unwrap_or_default();
        let complaint = complaining.join().unwrap_or_default();
        // One that does not read its input is not wrong for it.
        let _fed = feeding.join().is_ok();
        let status = status?;
        if !status.success() {
            let complaint = String::from_utf8_lossy(&complaint);
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            };
            let retryable = status.code() != Some(DATA_ERROR);
            return Err(failed(
                "EXIT",
                format!("{how}: {}", complaint.trim()),
                retryable,
            ));
        }
        if output.len() as u64 > OUTPUT_BYTES_MAX {
            let text = format!("the command wrote more than {OUTPUT_BYTES_MAX} bytes");
            return Err(failed("TOO_LARGE", text, false));
        }
        Ok(Yield {
            data: output.into(),
            content_type: self.output_type.clone(),
            score: None,
        })
    }

    fn wait(
        &self,
        child: &mut Child,
        abandoned: &AtomicBool,
    ) -> Result<std::process::ExitStatus, Refusal> {
        let began = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(error) => return Err(failed("WAIT", error.to_string(), true)),
            }
            let late = began.elapsed() >= self.timeout;
            if late || abandoned.load(Ordering::SeqCst) {
                kill(child);
                let text = if late {
                    format!("the command took longer than {:?}", self.timeout)
                } else {
                    "nobody waits for it any more".to_owned()
                };
                return Err(failed("TIMEOUT", text, true));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Kills a command and what it has started.
fn kill(child: &mut Child) {
    let group = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let killed = group
        .map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
    if !matches!(killed, Some(Ok(())))
        && let Err(error) = child.kill()
    {
        tracing::warn!(%error, "a command could not be killed");
    }
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "a killed command was not waited for");
    }
}

/// At most so many bytes; the rest is thrown away, so that the writer gets on.
fn read(from: Option<impl Read>, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let kept = from.by_ref().take(bytes_max).read_to_end(&mut bytes);
        let dropped = kept.and_then(|_| std::io::copy(&mut from, &mut std::io::sink()));
        if let Err(error) = dropped {
            tracing::warn!(%error, "reading what a command writes");
        }
    }
    bytes
}
