use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Endpoint, EndpointOptions};
use crate::component::docker::Error;

fn resolve(docker_host: Option<&str>, env: &[(&str, &str)]) -> Result<(String, String), Error> {
    let env: BTreeMap<String, String> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Endpoint::resolve(EndpointOptions { docker_host, env: &env }).map(|found| (found.address, found.origin))
}

fn context(config: &Path, folder: &str, name: &str, host: &str) {
    let dir = config.join("contexts/meta").join(folder);
    fs::create_dir_all(&dir).unwrap();
    let meta = format!(
        r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
    );
    fs::write(dir.join("meta.json"), meta).unwrap();
}

#[test]
fn flag_beats_variable_beats_context_beats_default() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".docker");
    context(&config, "aa", "one", "tcp://one:2375");
    context(&config, "bb", "two", "unix:///two.sock");
    let home = home.path().to_str().unwrap();
    let all = [("DOCKER_HOST", "tcp://variable:1"), ("DOCKER_CONTEXT", "one"), ("HOME", home)];
    let found = |host, env: &[(&str, &str)]| resolve(host, env).unwrap();
    assert_eq!(found(Some("unix:///flag.sock"), &all), ("unix:///flag.sock".to_owned(), "--docker-host".to_owned()));
    assert_eq!(found(None, &all), ("tcp://variable:1".to_owned(), "DOCKER_HOST".to_owned()));
    let named = found(None, &all[1..]);
    assert_eq!(named, ("tcp://one:2375".to_owned(), "context one, from DOCKER_CONTEXT".to_owned()));
    // An empty variable is none.
    fs::write(config.join("config.json"), r#"{"auths":{},"currentContext":"two"}"#).unwrap();
    let current = found(None, &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", ""), ("HOME", home)]);
    assert_eq!(current.0, "unix:///two.sock");
    let moved = [("HOME", "/nonexistent"), ("DOCKER_CONFIG", config.to_str().unwrap())];
    assert_eq!(found(None, &moved).0, "unix:///two.sock");
    let default = found(None, &[("DOCKER_CONTEXT", "default"), ("HOME", home)]);
    assert_eq!(default, ("unix:///var/run/docker.sock".to_owned(), "default".to_owned()));
}

#[test]
fn what_was_named_but_cannot_be_used_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".docker");
    context(&config, "aa", "far", "ssh://host");
    context(&config, "bb", "tls", "tcp://host:2376");
    fs::create_dir_all(config.join("contexts/tls/bb/docker")).unwrap();
    let home = home.path().to_str().unwrap();
    for host in ["ssh://host", "https://host", "host:2375", "unix://relative.sock", "tcp://", ""] {
        assert!(matches!(resolve(Some(host), &[]), Err(Error::Endpoint { .. })), "{host}");
    }
    let tls = [("DOCKER_HOST", "tcp://host:2376"), ("DOCKER_TLS_VERIFY", "1")];
    assert!(matches!(resolve(None, &tls), Err(Error::Endpoint { .. })));
    for name in ["far", "tls", "unknown"] {
        let error = resolve(None, &[("DOCKER_CONTEXT", name), ("HOME", home)]).unwrap_err();
        assert!(matches!(error, Error::Endpoint { .. }), "{name}: {error}");
    }
    assert!(matches!(resolve(None, &[("DOCKER_CONTEXT", "one")]), Err(Error::Endpoint { .. })));
    fs::write(config.join("config.json"), "{").unwrap();
    assert!(matches!(resolve(None, &[("HOME", home)]), Err(Error::Endpoint { .. })));
}
