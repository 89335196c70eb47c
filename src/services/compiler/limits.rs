//! Limits of one run and of a whole collection: what the request says, else
//! what the artifact says, else what the server says.

use velociraptor_proto::proto::{
    Artifact, ArtifactCollectorArgs, ArtifactSpec, Resources, VqlCollectorArgs,
};

use super::{CompileOptions, DEFAULT_MAX_ROW, DEFAULT_MAX_UPLOAD};

/// Limits of a whole collection; 0 is none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Collection {
    /// Rows.
    pub max_rows: u64,
    /// Uploaded bytes.
    pub max_upload_bytes: u64,
    /// Seconds.
    pub timeout: u64,
    /// Operations a second.
    pub ops_per_second: f32,
    /// Percent of all cores.
    pub cpu_limit: f32,
    /// I/O operations a second.
    pub iops_limit: f32,
    asked: Asked,
}

/// Which limits the request itself set.
#[derive(Debug, Clone, PartialEq, Default)]
struct Asked {
    max_rows: bool,
    max_upload_bytes: bool,
    timeout: bool,
    ops: bool,
    cpu: bool,
    iops: bool,
}

impl Collection {
    pub(super) fn of(r: &ArtifactCollectorArgs) -> Collection {
        Collection {
            max_rows: r.max_rows,
            max_upload_bytes: r.max_upload_bytes,
            timeout: r.timeout,
            ops_per_second: r.ops_per_second,
            cpu_limit: r.cpu_limit,
            iops_limit: r.iops_limit,
            asked: Asked {
                max_rows: r.max_rows > 0,
                max_upload_bytes: r.max_upload_bytes > 0,
                timeout: r.timeout > 0,
                ops: r.ops_per_second > 0.0,
                cpu: r.cpu_limit > 0.0,
                iops: r.iops_limit > 0.0,
            },
        }
    }

    /// Takes one more compiled run into account.
    pub(super) fn meet(&mut self, one: &VqlCollectorArgs, artifact: &Artifact) {
        let resources = artifact.resources.unwrap_or_default();
        if !self.asked.max_rows {
            self.max_rows = self.max_rows.max(resources.max_rows);
        }
        if !self.asked.max_upload_bytes {
            self.max_upload_bytes = self.max_upload_bytes.max(resources.max_upload_bytes);
        }
        if !self.asked.timeout {
            self.timeout = one.timeout;
        }
        if !self.asked.ops {
            self.ops_per_second = one.ops_per_second;
        }
        if !self.asked.cpu {
            self.cpu_limit = one.cpu_limit;
        }
        if !self.asked.iops {
            self.iops_limit = one.iops_limit;
        }
    }

    pub(super) fn finish(&mut self) {
        if self.max_upload_bytes == 0 {
            self.max_upload_bytes = DEFAULT_MAX_UPLOAD;
        }
    }

    /// Writes the limits into the request that is stored.
    pub fn write_to(&self, request: &mut ArtifactCollectorArgs) {
        request.max_rows = self.max_rows;
        request.max_upload_bytes = self.max_upload_bytes;
        request.timeout = self.timeout;
        request.ops_per_second = self.ops_per_second;
        request.cpu_limit = self.cpu_limit;
        request.iops_limit = self.iops_limit;
    }
}

/// Sets the limits of one run.
pub(super) fn apply(
    one: &mut VqlCollectorArgs,
    request: &ArtifactCollectorArgs,
    spec: &ArtifactSpec,
    artifact: &Artifact,
    options: &CompileOptions<'_>,
) {
    let own = artifact.resources.unwrap_or_default();
    one.cpu_limit = first([request.cpu_limit, spec.cpu_limit, own.cpu_limit]);
    one.timeout = first([request.timeout, spec.timeout, own.timeout]);
    one.ops_per_second = first([request.ops_per_second, own.ops_per_second]);
    one.iops_limit = first([request.iops_limit, own.iops_limit]);
    one.progress_timeout = request.progress_timeout;
    batching(one, spec, &own, options);
}

/// Sets how rows are gathered into packets.
pub(super) fn batching(
    one: &mut VqlCollectorArgs,
    spec: &ArtifactSpec,
    own: &Resources,
    options: &CompileOptions<'_>,
) {
    let rows = own.max_batch_rows.max(options.max_row);
    one.max_row = first([spec.max_batch_rows, rows, DEFAULT_MAX_ROW]);
    one.max_wait = first([spec.max_batch_wait, own.max_batch_wait.max(options.max_wait)]);
    let buffer = own.max_batch_rows_buffer.max(options.max_row_buffer);
    one.max_row_buffer_size = first([spec.max_batch_rows_buffer, buffer]);
}

/// The first one that is set.
fn first<T: PartialOrd + Default + Copy, const N: usize>(values: [T; N]) -> T {
    values.into_iter().find(|v| *v > T::default()).unwrap_or_default()
}
