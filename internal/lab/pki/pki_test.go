package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"testing"
	"time"
)

func TestServerCertificateIsTrusted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	authority, err := NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	addresses := []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")}
	pair, err := authority.IssueServer([]string{"kubernetes", "kubernetes.default"}, addresses)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		t.Fatalf("certificate and key: %v", err)
	}
	block, _ := pem.Decode(pair.Certificate)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority.Certificate()) {
		t.Fatal("the authority's certificate is no PEM")
	}
	for name, trusted := range map[string]bool{
		"kubernetes": true, "kubernetes.default": true, "10.96.0.1": true, "fd00:10:96::1": true,
		"example.org": false, "10.96.0.2": false,
	} {
		_, err := certificate.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if (err == nil) != trusted {
			t.Errorf("%s: trusted = %t (%v), want %t", name, err == nil, err, trusted)
		}
	}
	stranger, err := NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	others := x509.NewCertPool()
	others.AppendCertsFromPEM(stranger.Certificate())
	if _, err := certificate.Verify(x509.VerifyOptions{DNSName: "kubernetes", Roots: others, CurrentTime: now}); err == nil {
		t.Error("trusted by the authority of another lab")
	}
}

func TestSigningKeyIsPrivateKey(t *testing.T) {
	t.Parallel()
	key, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	if block == nil {
		t.Fatalf("no PEM: %q", key)
	}
	if _, err := x509.ParseECPrivateKey(block.Bytes); err != nil {
		t.Error(err)
	}
}
