//! Secret files come back byte for byte, and what they replace is kept.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use orkvault::component::files::{Error as FilesError, SecretsSink, SecretsSource};
use orkvault::component::{Error, Sink, Source};

use crate::memory_store::MemoryStore;

const ENV: &[u8] = b"A=1\r\n# \xff odd bytes\nPASSWORD='x y'\n";

fn stack() -> tempfile::TempDir {
    let stack = tempfile::tempdir().unwrap();
    fs::write(stack.path().join(".env"), ENV).unwrap();
    fs::set_permissions(stack.path().join(".env"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(stack.path().join("keys")).unwrap();
    fs::set_permissions(stack.path().join("keys"), Permissions::from_mode(0o750)).unwrap();
    for (name, mode) in [("jwt-private.pem", 0o644), ("apple.p8", 0o400)] {
        let path = stack.path().join("keys").join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    stack
}

fn source(stack: &Path) -> SecretsSource {
    SecretsSource::new(stack.join(".env"), stack.join("keys"))
}

fn sink(stack: &Path) -> SecretsSink {
    SecretsSink::new(stack.join(".env"), stack.join("keys"), "20261122T160000Z".to_owned())
}

async fn capture(stack: &Path) -> Result<MemoryStore, Error> {
    let mut store = MemoryStore::default();
    let mut source = source(stack);
    source.probe().await?;
    store.captured = source.capture(&mut store).await?;
    Ok(store)
}

#[tokio::test]
async fn secrets_come_back_byte_for_byte_with_modes_into_an_empty_place() {
    let stack = stack();
    let mut store = capture(stack.path()).await.unwrap();
    assert_eq!(store.keys(), [".env", "keys/apple.p8", "keys/jwt-private.pem"]);
    let target = tempfile::tempdir().unwrap();
    let plan = sink(target.path()).plan(&mut store).await.unwrap();
    assert_eq!((plan.creates.len(), plan.replaces.len()), (3, 0));
    sink(target.path()).restore(&mut store).await.unwrap();
    assert_eq!(fs::read(target.path().join(".env")).unwrap(), ENV);
    let mode = |name: &str| fs::metadata(target.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        [mode(".env"), mode("keys"), mode("keys/jwt-private.pem"), mode("keys/apple.p8")],
        [0o600, 0o750, 0o644, 0o600]
    );
    // One that is there stays as its owner made it.
    fs::set_permissions(target.path().join("keys"), Permissions::from_mode(0o711)).unwrap();
    sink(target.path()).restore(&mut store).await.unwrap();
    assert_eq!(mode("keys"), 0o711);
}

#[tokio::test]
async fn a_file_that_differs_is_kept_beside_and_not_captured_again() {
    let stack = stack();
    let mut store = capture(stack.path()).await.unwrap();
    fs::write(stack.path().join("keys/apple.p8"), "other").unwrap();
    let plan = sink(stack.path()).plan(&mut store).await.unwrap();
    assert_eq!((plan.creates.len(), plan.replaces.len()), (0, 1));
    assert!(plan.replaces[0].contains("apple.p8.orkvault-before-20261122T160000Z"), "{plan:?}");
    let restored = sink(stack.path()).restore(&mut store).await.unwrap();
    assert!(restored.notes.last().unwrap().contains("2 of them were the same"), "{restored:?}");
    assert_eq!(fs::read(stack.path().join("keys/apple.p8")).unwrap(), b"apple.p8");
    let kept = stack.path().join("keys/apple.p8.orkvault-before-20261122T160000Z");
    assert_eq!(fs::read(kept).unwrap(), b"other");
    assert_eq!(capture(stack.path()).await.unwrap().keys(), store.keys());
}

#[tokio::test]
async fn the_environment_file_is_mandatory_and_the_keys_are_not() {
    let stack = stack();
    fs::remove_dir_all(stack.path().join("keys")).unwrap();
    assert_eq!(capture(stack.path()).await.unwrap().keys(), [".env"]);
    fs::remove_file(stack.path().join(".env")).unwrap();
    assert!(matches!(capture(stack.path()).await, Err(Error::Files(FilesError::Missing { .. }))));
}

#[tokio::test]
async fn a_key_that_cannot_be_read_fails_the_component() {
    let stack = stack();
    symlink("nowhere", stack.path().join("keys/dangling.pem")).unwrap();
    assert!(matches!(capture(stack.path()).await, Err(Error::Files(FilesError::Missing { .. }))));
}

#[tokio::test]
async fn more_than_four_mebibytes_are_refused() {
    let stack = stack();
    fs::write(stack.path().join("keys/huge"), vec![0_u8; 4 << 20]).unwrap();
    assert!(matches!(capture(stack.path()).await, Err(Error::Files(FilesError::SecretsTooLarge { .. }))));
}

#[tokio::test]
async fn a_bundle_that_turns_out_bad_changes_nothing() {
    let stack = stack();
    let mut store = capture(stack.path()).await.unwrap();
    fs::write(stack.path().join(".env"), "present").unwrap();
    store.rows[2].0.key = b"keys/../../evil".to_vec();
    assert!(matches!(sink(stack.path()).restore(&mut store).await, Err(Error::Files(FilesError::UnsafeKey { .. }))));
    assert_eq!(fs::read(stack.path().join(".env")).unwrap(), b"present");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_secret_is_refused() {
    let stack = stack();
    let mut store = capture(stack.path()).await.unwrap();
    fs::rename(stack.path().join(".env"), stack.path().join("elsewhere")).unwrap();
    symlink("elsewhere", stack.path().join(".env")).unwrap();
    let error = sink(stack.path()).plan(&mut store).await.err();
    assert!(matches!(error, Some(Error::Files(FilesError::InTheWay { .. }))), "{error:?}");
}
