//! Ed25519 keys: the root, which signs who is trusted, and a signer's own, which signs what it wrote.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use backstay_model::{Random, SignerKey, seams};

/// A private signing key. Never printed; its seed leaves only through `seed`, for the key file.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
    public: SignerKey,
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        Self::from_seed(self.seed)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public.short())
    }
}

impl SigningKey {
    pub fn generate(random: &dyn Random) -> Self {
        Self::from_seed(seams::fresh(random))
    }

    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are an Ed25519 seed");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { seed, pair, public: SignerKey::from_bytes(public) }
    }

    pub fn public(&self) -> SignerKey {
        self.public
    }

    /// The secret itself, for writing a key file and nothing else.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature is 64 bytes")
    }
}

/// Whether `signature` was made over `message` by the holder of `key`.
pub fn verify(key: &SignerKey, message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (a, b) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let signature = a.sign(b"message");
        assert!(verify(&a.public(), b"message", &signature));
        assert!(!verify(&b.public(), b"message", &signature));
        assert!(!verify(&a.public(), b"massage", &signature));
    }
}
