//! Text that must not be shown.

use zeroize::Zeroize;

/// A password, key or connection string: no `Debug`, `Display` or `Clone`, wiped when dropped.
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the one call that needs it: never for a message, a log or an argument list.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns a second copy, wiped on its own. Explicit, so that copies are seen in the code.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether it is the empty text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
