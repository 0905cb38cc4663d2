//! A machine at work: its process and its API, from the first breath to the last.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::api::{Api, RUNNING, steps};
use super::home::{Home, host};
use super::{Failed, Setup, Spec, console, order, program};

/// How often a process and a socket are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the machine's API may take to hand on that it is to go down.
const ASKING_MAX: Duration = Duration::from_secs(1);

/// A process of the host: its state, and when it began, in ticks since the host started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Identity {
    pub(in super::super) ticks: u64,
    /// It has ended, and nobody has asked for its outcome yet.
    pub(in super::super) ended: bool,
}

/// What `/proc/<pid>/stat` says; `None` if there is no such process. Blocks.
pub(in super::super) fn identity(pid: u32) -> Option<Identity> {
    read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program, in brackets, may hold anything; after it come state (3rd field) and, as
/// the 22nd, the start.
fn read(stat: &str) -> Option<Identity> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let ticks = fields.nth(18)?.parse().ok()?;
    Some(Identity { ticks, ended })
}

/// A machine whose process is at work. Dropped, it ends.
#[derive(Debug)]
pub(in super::super) struct Machine {
    child: Child,
    home: Home,
    api: Option<Api>,
    ended: Option<ExitStatus>,
}

impl Machine {
    /// Furnishes `home` and starts the process. Blocks.
    pub(in super::super) fn launch(setup: &Setup, spec: &Spec, home: Home) -> Result<Self, Failed> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let find = |named| program(named).ok_or_else(missing);
        let binary = find(&setup.binary).map_err(host("firecracker cannot be found"))?;
        let runs = match &setup.jailer {
            Some(jailer) => find(&jailer.binary).map_err(host("the jailer cannot be found"))?,
            None => binary.clone(),
        };
        home.furnish(setup)?;
        let (reader, writer) = io::pipe().map_err(host("its console cannot be kept"))?;
        let console = home.open_console()?;
        let errors = writer
            .try_clone()
            .map_err(host("its console cannot be kept"))?;
        let mut command = Command::new(&runs);
        command
            .args(order::arguments(setup, spec, &home, &binary))
            // Nothing of the node's environment is a guest's business.
            .env_clear()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors);
        let child = command
            .spawn()
            .map_err(host("its process cannot be started"))?;
        // The command holds the pipe's end, which would keep the console open for ever.
        drop(command);
        let machine = Self {
            child,
            home,
            api: None,
            ended: None,
        };
        let most = setup.console_bytes_max;
        let keeping = std::thread::Builder::new().name("arqon-console".to_owned());
        keeping
            .spawn(move || {
                if let Err(error) = console::keep(reader, console, most) {
                    tracing::debug!(%error, "console of a machine");
                }
            })
            .map_err(host("its console cannot be kept"))?;
        Ok(machine)
    }

    pub(in super::super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Configures it and starts the guest. Whoever waits sets the time.
    pub(in super::super) async fn boot(
        &mut self,
        setup: &Setup,
        spec: &Spec,
    ) -> Result<(), Failed> {
        let socket = self.home.api_socket();
        let mut api = loop {
            match Api::connect(&socket).await {
                Ok(api) => break api,
                // Not yet.
                Err(_nobody) => tokio::time::sleep(LOOK_EVERY).await,
            }
            self.check()?;
        };
        for step in steps(setup, spec, &self.home) {
            if let Err(failed) = api.put(&step).await {
                // A process that is gone says why better than a connection that broke.
                tokio::time::sleep(LOOK_EVERY).await;
                self.check()?;
                return Err(failed);
            }
        }
        while api.state().await? != RUNNING {
            self.check()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.api = Some(api);
        Ok(())
    }

    fn check(&mut self) -> Result<(), Failed> {
        match self.ended() {
            None => Ok(()),
            Some(how) => Err(Failed::Died { how }),
        }
    }

    /// How its process has ended, if it has.
    pub(in super::super) fn ended(&mut self) -> Option<String> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.map(|status| status.to_string())
    }

    /// Returns when its process has ended.
    pub(in super::super) async fn gone(&mut self) -> String {
        loop {
            if let Some(how) = self.ended() {
                return how;
            }
            tokio::time::sleep(LOOK_EVERY * 5).await;
        }
    }

    async fn gone_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.ended().is_none() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Has it go down: the guest is asked (where there is a key for that), then its process, then
    /// nobody is asked; each gets `time`. Without `patience` the guest is not asked.
    pub(in super::super) async fn stop(mut self, time: Duration, patience: bool) -> &'static str {
        let keys = cfg!(target_arch = "x86_64") && patience;
        if keys && let Some(mut api) = self.api.take() {
            let step = (
                "PUT /actions SendCtrlAltDel",
                "/actions",
                serde_json::json!({ "action_type": "SendCtrlAltDel" }),
            );
            let asked = tokio::time::timeout(ASKING_MAX, api.put(&step)).await;
            if matches!(asked, Ok(Ok(()))) && self.gone_within(time).await {
                return "went down when asked";
            }
        }
        if self.ended().is_none() {
            self.signal(Signal::TERM);
        }
        if self.gone_within(time).await {
            return "was told to end";
        }
        // Dropping kills.
        "was killed"
    }

    /// The process has not been waited for, so that its number is nobody else's.
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process_group(pid, signal)
        {
            tracing::debug!(%error, "a machine's process was not told");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            // Nothing outlives that for long.
            if let Err(error) = self.child.wait() {
                tracing::warn!(%error, "a machine's process was not waited for");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // OPS-10
    #[test]
    fn a_process_is_known_by_when_it_began() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let found = read(&format!("12 (evil) name) {rest}")).unwrap();
        assert_eq!(
            found,
            Identity {
                ticks: 4711,
                ended: false
            }
        );
        let found = read(&format!("12 (x) {}", rest.replace('S', "Z"))).unwrap();
        assert!(found.ended);
        assert_eq!(read("12 (x) S 1"), None);
        assert!(identity(std::process::id()).is_some_and(|one| !one.ended));
        assert_eq!(identity(u32::MAX), None);
    }
}
