//! nginx as a plain reverse proxy with keepalive, on a free port and with a directory of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::error::LoadError;

/// Where Debian puts it; not on everybody's PATH.
const PROGRAMS: [&str; 2] = ["nginx", "/usr/sbin/nginx"];
const PATIENCE: Duration = Duration::from_secs(5);

/// A running nginx. Dropped, it is told to quit and waited for.
#[derive(Debug)]
pub(crate) struct Nginx {
    master: std::process::Child,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

/// The version that is installed, or `None` where there is no nginx.
pub(crate) fn version() -> Option<(&'static str, String)> {
    PROGRAMS.into_iter().find_map(|program| {
        let output = Command::new(program).arg("-v").stdin(Stdio::null()).output().ok()?;
        Some((program, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    })
}

impl Nginx {
    /// Starts it in front of an upstream.
    pub(crate) async fn start(program: &str, upstream: SocketAddr) -> Result<Self, LoadError> {
        let directory = tempfile::tempdir().map_err(LoadError::io("a directory for nginx"))?;
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let address = free.and_then(|free| free.local_addr()).map_err(LoadError::io("a free port"))?;
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration(directory.path(), address, upstream))
            .map_err(LoadError::io("nginx's configuration"))?;
        let log = std::fs::File::create(directory.path().join("stderr"))
            .map_err(LoadError::io("a log for nginx"))?;
        let master = Command::new(program)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(LoadError::io("nginx"))?;
        let nginx = Self { master, address, directory };
        let answers = tokio::time::timeout(PATIENCE, async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if answers.await.is_ok() {
            return Ok(nginx);
        }
        let read = |name: &str| std::fs::read_to_string(nginx.directory.path().join(name));
        let log = [read("stderr"), read("error.log")].into_iter().flatten().collect();
        Err(LoadError::Nginx { address, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.master.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A master that is killed leaves its workers behind; one that is told to quit takes them along.
        let told = Command::new("kill").args(["-TERM", &self.master.id().to_string()]).status();
        if !told.is_ok_and(|status| status.success()) {
            drop(self.master.kill());
        }
        drop(self.master.wait());
    }
}

fn configuration(directory: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let directory = directory.display();
    // Workers of root's nginx would be `nobody`, who may not enter a temporary directory.
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let user = if root { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;
worker_processes auto;
worker_rlimit_nofile 8192;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream model {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"
    )
}
