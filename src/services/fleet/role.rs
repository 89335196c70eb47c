//! What a process is in its deployment.

/// What a process does with journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Applies the journals of all processes, decides, and writes stock files. A
    /// single server is a master without minions.
    #[default]
    Master,
    /// Writes its own journal and nothing else.
    Minion,
}

impl Role {
    /// What the marker file of an epoch says.
    pub fn marker(self) -> &'static [u8] {
        match self {
            Self::Master => b"master\n",
            Self::Minion => b"minion\n",
        }
    }

    /// From a marker file. One that says nothing is from before there were
    /// minions.
    pub fn of_marker(marker: &[u8]) -> Self {
        if marker == Self::Minion.marker() { Self::Minion } else { Self::Master }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_name_roles() {
        for r in [Role::Master, Role::Minion] {
            assert_eq!(Role::of_marker(r.marker()), r);
        }
        assert_eq!(Role::of_marker(b""), Role::Master);
    }
}
