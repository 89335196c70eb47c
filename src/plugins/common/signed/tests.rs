use super::*;

/// An element of a type that holds parts.
fn of(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        n @ 0..0x80 => out.push(n as u8),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend(content);
    out
}

fn oid(text: &str) -> Vec<u8> {
    let numbers: Vec<u32> = text.split('.').map(|n| n.parse().unwrap()).collect();
    let mut content = vec![(numbers[0] * 40 + numbers[1]) as u8];
    for n in &numbers[2..] {
        for shift in (0..5).rev().filter(|s| *s == 0 || n >> (7 * s) > 0) {
            content.push((n >> (7 * shift) & 0x7f) as u8 | if shift > 0 { 0x80 } else { 0 });
        }
    }
    of(0x06, &[content])
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn name(parts: &[(&str, &str)]) -> Vec<u8> {
    let pair = |(kind, text): &(&str, &str)| {
        of(0x31, &[of(0x30, &[oid(kind), of(0x0c, &[text.as_bytes().to_vec()])])])
    };
    of(0x30, &parts.iter().map(pair).collect::<Vec<_>>())
}

fn certificate() -> Vec<u8> {
    let modulus: Vec<u8> = (0..=16).collect();
    let key = of(0x30, &[of(0x02, &[modulus]), of(0x02, &[vec![1, 0, 1]])]);
    let key = of(0x30, &[of(0x30, &[oid("1.2.840.113549.1.1.1")]), of(0x03, &[vec![0], key])]);
    let extension = |id: &str, critical: bool, value: Vec<u8>| {
        let flag = if critical { of(0x01, &[vec![0xff]]) } else { Vec::new() };
        of(0x30, &[oid(id), flag, of(0x04, &[value])])
    };
    let point = of(0x30, &[of(0xa0, &[of(0xa0, &[of(0x86, &[b"http://c/".to_vec()])])])]);
    let extensions = of(
        0x30,
        &[
            extension("2.5.29.14", false, of(0x04, &[vec![0xab, 1]])),
            extension("2.5.29.15", true, of(0x03, &[vec![1, 0x86]])),
            extension(
                "2.5.29.17",
                false,
                of(0x30, &[of(0x82, &[b"a.b".to_vec()]), of(0x87, &[vec![10, 0, 0, 1]])]),
            ),
            extension(
                "2.5.29.19",
                true,
                of(0x30, &[of(0x01, &[vec![0xff]]), of(0x02, &[vec![2]])]),
            ),
            extension("2.5.29.31", false, of(0x30, &[point])),
            extension(
                "2.5.29.32",
                false,
                of(0x30, &[of(0x30, &[oid("2.5.29.32.0")]), of(0x30, &[oid("1.2.3")])]),
            ),
            extension("2.5.29.35", false, of(0x30, &[of(0x80, &[vec![9, 9]])])),
            extension("2.5.29.37", false, of(0x30, &[oid("1.3.6.1.5.5.7.3.3"), oid("1.9.9")])),
            extension("2.5.29.18", false, vec![5, 0]),
            extension("1.2.3.4", false, vec![5, 0]),
        ],
    );
    let dates = of(
        0x30,
        &[of(0x17, &[b"200102030405Z".to_vec()]), of(0x18, &[b"20600102030405Z".to_vec()])],
    );
    let body = of(
        0x30,
        &[
            of(0xa0, &[of(0x02, &[vec![2]])]),
            of(0x02, &[vec![0, 0xc7]]),
            of(0x30, &[oid("1.2.840.113549.1.1.11")]),
            name(&[("2.5.4.6", "XX"), ("2.5.4.3", "Root")]),
            dates,
            name(&[("2.5.4.3", "Me"), ("1.2.840.113549.1.9.1", "me@x"), ("2.5.4.12", "T")]),
            key,
            of(0xa3, &[extensions]),
        ],
    );
    of(0x30, &[body, of(0x30, &[oid("1.2.840.113549.1.1.11")]), of(0x03, &[vec![0, 1]])])
}

fn signed(kind: &str, content: Vec<u8>) -> Vec<u8> {
    let attribute = |id: &str, value: Vec<u8>| of(0x30, &[oid(id), of(0x31, &[value])]);
    let opus = of(
        0x30,
        &[of(0xa0, &[of(0x80, &[wide("Prog")])]), of(0xa1, &[of(0x80, &[b"http://x".to_vec()])])],
    );
    let from = |number: u8| of(0x30, &[name(&[("2.5.4.3", "Root")]), of(0x02, &[vec![0, number]])]);
    let sha256 = || of(0x30, &[oid("2.16.840.1.101.3.4.2.1"), vec![5, 0]]);
    let counter = of(
        0x30,
        &[
            of(0x02, &[vec![1]]),
            from(0x99),
            of(0x30, &[oid("1.3.14.3.2.26")]),
            of(0xa0, &[attribute("1.2.840.113549.1.9.5", of(0x17, &[b"210102030405Z".to_vec()]))]),
        ],
    );
    let signer = of(
        0x30,
        &[
            of(0x02, &[vec![1]]),
            from(0xc7),
            sha256(),
            of(
                0xa0,
                &[
                    attribute("1.3.6.1.4.1.311.2.1.12", opus),
                    attribute("1.2.840.113549.1.9.3", oid("1.3.6.1.4.1.311.2.1.4")),
                    attribute("1.2.840.113549.1.9.4", of(0x04, &[vec![1, 2, 3]])),
                    attribute("1.2.3.4", vec![5, 0]),
                ],
            ),
            of(0x30, &[oid("1.2.840.113549.1.1.1")]),
            of(0x04, &[vec![7; 8]]),
            of(0xa1, &[attribute("1.2.840.113549.1.9.6", counter)]),
        ],
    );
    let data = of(
        0x30,
        &[
            of(0x02, &[vec![1]]),
            of(0x31, &[sha256()]),
            of(0x30, &[oid(kind), of(0xa0, &[content])]),
            of(0xa0, &[certificate()]),
            of(0x31, &[signer]),
        ],
    );
    of(0x30, &[oid("1.2.840.113549.1.7.2"), of(0xa0, &[data])])
}

fn program() -> Vec<u8> {
    let digest =
        of(0x30, &[of(0x30, &[oid("2.16.840.1.101.3.4.2.1")]), of(0x04, &[vec![0xaa, 0xbb]])]);
    signed("1.3.6.1.4.1.311.2.1.4", of(0x30, &[of(0x30, &[oid("1.3.6.1.4.1.311.2.1.15")]), digest]))
}

async fn query(text: &str, data: Vec<u8>) -> String {
    let mut registry = Registry::standard();
    super::super::register(&mut registry);
    let env = std::sync::Arc::new(crate::env::real::env());
    let scope = vql::ScopeBuilder::new(std::sync::Arc::new(registry)).extension(env).build();
    scope.set("Data", data);
    Value::from(vql::run(text, &scope).await.unwrap()).to_json()
}

#[tokio::test]
async fn certificates() {
    let expected = r#"[{"C":[{"SerialNumber":"c7","SignatureAlgorithm":"SHA256-RSA","Subject":"CN=Me, emailAddress=me@x, UnknownOID=2.5.4.12","Issuer":"C=XX, CN=Root","NotBefore":"2020-01-02T03:04:05Z","NotAfter":"2060-01-02T03:04:05Z","PublicKey":"RSA\n                Public-Key: (121 bit)\n                Modulus:\n                    01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:\n                    10\n                Exponent: 65537 (0x10001)\n","Extensions":{"SubjectKeyId":{"Critical":false,"Value":"AB:01"},"KeyUsage":{"Critical":true,"KeyUsage":["Digital Signature","Certificate Sign","CRL Sign"]},"SubjectAlternativeName":{"Critical":false,"DNS":["a.b"],"Email":null,"IP":["10.0.0.1"]},"BasicConstraints":{"Critical":true,"IsCA":true,"MaxPathLen":2},"CRLDistributionPoints":{"Critical":false,"URI":["http://c/"]},"CertificatePolicies":{"Critical":false,"Policy":["Any Policy (2.5.29.32.0)","1.2.3"]},"AuthorityKeyIdentifier":{"Critical":false,"KeyId":""},"Extended Key Usage":{"Critical":false,"KeyUsage":["Code Signing"]},"Unknown extension 2.5.29.18\n":true}}],"N":null}]"#;
    let text = "SELECT parse_x509(data=Data) AS C, parse_x509(data='no') AS N FROM scope()";
    assert_eq!(query(text, certificate()).await, expected);
}

#[tokio::test]
async fn signatures() {
    let text = "SELECT S.Signer AS A, len(list=S.Certificates) AS C, S.HashType AS T, \
        S.ExpectedHash AS H, S.ExpectedHashHex AS X, parse_pkcs7(data=Data[:40]) AS N \
        FROM foreach(row={ SELECT parse_pkcs7(data=Data) AS S FROM scope() })";
    let expected = r#"[{"A":{"IssuerName":"CN=Root","SerialNumber":"c7","DigestAlgorithm":"SHA256","AuthenticatedAttributes":{"ProgramName":"Prog","MoreInfo":"http://x","ContentType":"1.3.6.1.4.1.311.2.1.4","MessageDigest":"AQID","MessageDigestHex":"010203","Oid: 1.2.3.4":"Unknown"},"UnauthenticatedAttributes":{"CounterSignature":{"IssuerName":"CN=Root","SerialNumber":"99","DigestAlgorithm":"SHA1","AuthenticatedAttributes":{"SigningTime":"2021-01-02T03:04:05Z"},"UnauthenticatedAttributes":{}}},"Subject":"CN=Me, emailAddress=me@x, UnknownOID=2.5.4.12"},"C":1,"T":"SHA256","H":"qrs=","X":"aabb","N":null}]"#;
    assert_eq!(query(text, program()).await, expected);
}

#[tokio::test]
async fn catalogues() {
    let pair = |name: &str, value: &[u8]| {
        of(0x30, &[of(0x1e, &[wide(name)]), of(0x02, &[vec![0]]), of(0x04, &[value.to_vec()])])
    };
    let digest = of(0x30, &[of(0x30, &[oid("1.3.14.3.2.26")]), of(0x04, &[vec![0xcc]])]);
    let hash = of(0x30, &[of(0x30, &[oid("1.3.6.1.4.1.311.2.1.15")]), digest]);
    let fact = |kind: &str, value: Vec<u8>| of(0x30, &[oid(kind), of(0x31, &[value])]);
    let member = of(
        0x30,
        &[
            of(0x04, &[vec![1, 2]]),
            of(
                0x31,
                &[
                    fact("1.3.6.1.4.1.311.12.2.1", pair("File", b"a\0.\0x\0\0\0")),
                    fact("1.3.6.1.4.1.311.2.1.4", hash),
                ],
            ),
        ],
    );
    let extension = of(0x30, &[oid("1.3.6.1.4.1.311.12.2.1"), of(0x04, &[pair("OS", b"1\0\0\0")])]);
    let list = of(
        0x30,
        &[
            of(0x30, &[oid("1.3.6.1.4.1.311.12.1.1")]),
            of(0x04, &[vec![9]]),
            of(0x17, &[b"210102030405Z".to_vec()]),
            of(0x30, &[oid("1.3.6.1.4.1.311.12.1.2"), vec![5, 0]]),
            of(0x30, &[member]),
            of(0xa0, &[of(0x30, &[extension])]),
        ],
    );
    let text = "SELECT S.OS AS O, S.CertificateTrustList AS L \
        FROM foreach(row={ SELECT parse_pkcs7(data=Data) AS S FROM scope() })";
    let expected = r#"[{"O":"1","L":[{"File":"a.x","HashType":"SHA1","Hash":"cc"}]}]"#;
    assert_eq!(query(text, signed("1.3.6.1.4.1.311.10.1", list)).await, expected);
}

#[test]
fn signatures_that_lie() {
    let good = program();
    assert!(Signed::of(&good).is_some());
    for at in 0..good.len() {
        for bits in [0xff, 0x01, 0x80, 0x20] {
            let mut bad = good.clone();
            bad[at] ^= bits;
            if let Some(signed) = Signed::of(&bad) {
                signed.dict();
            }
        }
        assert!(Signed::of(&good[..at]).is_none());
    }
}
