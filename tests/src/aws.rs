//! Services of AWS on loopback: moto's server.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cluster::REGION;

/// How long moto takes to start at most: it is a second's work of a machine of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running moto server; ends with this value.
#[derive(Debug)]
pub struct Aws {
    address: SocketAddr,
    child: Child,
}

impl Aws {
    /// # Errors
    /// If moto does not start.
    pub fn start() -> Result<Self> {
        // The port is free a moment before moto binds it; if another takes it, moto ends and the
        // next port is tried.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let mut child = Command::new("python3")
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p"])
                .arg(address.port().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("start python3")?;
            let deadline = Instant::now() + crate::patience(PATIENCE);
            while Instant::now() < deadline && child.try_wait()?.is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Ok(Self { address, child });
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            child.wait()?;
        }
        bail!("moto does not listen (Python package moto[server])")
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs Python in which `client` makes boto3's clients; what it prints, as JSON.
    ///
    /// # Errors
    /// If it fails, or prints no JSON.
    pub fn boto3(&self, script: &str) -> Result<Value> {
        let output = Command::new("python3")
            .args(["-c", &format!("import json\nfrom boto3 import client\n{script}")])
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", "operator")
            .env("AWS_SECRET_ACCESS_KEY", "operator")
            .env("AWS_DEFAULT_REGION", REGION)
            .stdin(Stdio::null())
            .output()
            .context("start python3")?;
        if !output.status.success() {
            bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Puts a secret: its ARN.
    ///
    /// # Errors
    /// If it cannot be put.
    pub fn put_secret(&self, name: &str, value: &str) -> Result<String> {
        let arn = self.boto3(&format!(
            "s = client('secretsmanager')\n\
             try: a = s.create_secret(Name='{name}', SecretString='''{value}''')\n\
             except s.exceptions.ResourceExistsException:\n \
             a = s.put_secret_value(SecretId='{name}', SecretString='''{value}''')\n\
             print(json.dumps(a['ARN']))"
        ))?;
        arn.as_str().map(str::to_owned).context("the secret has no ARN")
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
