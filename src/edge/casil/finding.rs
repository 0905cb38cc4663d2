//! What can be found in a text.

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A key that names and opens an account: AWS, GCP, Stripe and the like.
    AccessKey,
    /// A bearer token, JWT, or an access token of a known issuer.
    Token,
    /// A private key in PEM or age form.
    PrivateKey,
    /// The password in an address.
    Connection,
    /// The value of a name such as `password`.
    Keyed,
    /// A string of high entropy.
    Random,
    /// What a pattern of the tenant matches.
    Pattern,
    /// An e-mail address.
    Email,
    /// A bank account with the right check digits.
    Iban,
    /// The number of a payment card with the right check digit.
    Card,
    /// A telephone number in international form.
    Phone,
    /// A national identity number with the right check digits.
    NationalId,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::AccessKey,
        Self::Token,
        Self::PrivateKey,
        Self::Connection,
        Self::Keyed,
        Self::Random,
        Self::Pattern,
        Self::Email,
        Self::Iban,
        Self::Card,
        Self::Phone,
        Self::NationalId,
    ];

    /// What it is called in flags.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::AccessKey => "secret.access_key",
            Self::Token => "secret.token",
            Self::PrivateKey => "secret.private_key",
            Self::Connection => "secret.connection",
            Self::Keyed => "secret.keyed",
            Self::Random => "secret.random",
            Self::Pattern => "secret.pattern",
            Self::Email => "personal.email",
            Self::Iban => "personal.iban",
            Self::Card => "personal.card",
            Self::Phone => "personal.phone",
            Self::NationalId => "personal.national_id",
        }
    }

    /// Whether it concerns a person; all else is a secret.
    #[must_use]
    pub const fn is_personal(self) -> bool {
        match self {
            Self::Email | Self::Iban | Self::Card | Self::Phone | Self::NationalId => true,
            Self::AccessKey
            | Self::Token
            | Self::PrivateKey
            | Self::Connection
            | Self::Keyed
            | Self::Random
            | Self::Pattern => false,
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds(u16);

impl Kinds {
    /// Puts one in.
    pub const fn insert(&mut self, kind: Kind) {
        self.0 |= kind.bit();
    }

    /// Puts all of another set in.
    pub const fn extend(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .into_iter()
            .filter(move |kind| self.0 & kind.bit() != 0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether there is a secret.
    #[must_use]
    pub fn has_secret(self) -> bool {
        self.iter().any(|kind| !kind.is_personal())
    }

    /// Whether there is something that concerns a person.
    #[must_use]
    pub fn has_personal(self) -> bool {
        self.iter().any(Kind::is_personal)
    }
}
