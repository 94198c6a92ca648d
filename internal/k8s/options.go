package k8s

import (
	"github.com/spf13/pflag"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Options are the flags of whoever deals with Services.
type Options struct {
	Class      Class
	kubeconfig string
}

// AddFlags makes o be set by flags.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty uses the Pod's ServiceAccount")
	f.StringVar(&o.Class.Name, "load-balancer-class", v1beta1.LoadBalancerClass, "loadBalancerClass of the Services that are Berth's")
	f.BoolVar(&o.Class.Default, "default-load-balancer", true, "serve Services without a loadBalancerClass as well")
}

// Connect returns clients that tell the API server that they are userAgent, and
// contact when it was heard of.
func (o Options) Connect(userAgent string, contact *Contact) (*Clients, error) {
	cfg, err := LoadConfig(o.kubeconfig, userAgent)
	if err != nil {
		return nil, err
	}
	cfg.Wrap(contact.Wrap)
	return NewClients(cfg)
}

// The Secret with the key that encrypts what the speakers tell each other. The
// controller makes it and the speakers read it.
const (
	MembershipSecret = "berth-membership"
	MembershipField  = "key"
	MembershipBytes  = 32 // AES-256
)
