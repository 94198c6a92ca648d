package cli

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Services is the report of the Services that are Berth's.
type Services struct {
	Services []Service `json:"services"`
}

// Service is one of Berth's Services.
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
	Pools     []string `json:"pools,omitempty"`
	Policy    string   `json:"externalTrafficPolicy"`
	// Announcements say who announces each address.
	Announcements []Announcement `json:"announcements,omitempty"`
	// State says how it is doing; Reason and Message are those of the condition
	// that tells most about it.
	State   State  `json:"state"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Reasons of the conditions of a Service that are treated in a way of their own.
// All are explained in the documentation, and in the message that comes with each.
const (
	reasonNoEndpoints     = "NoEndpoints"
	reasonPreparing       = "Preparing"
	reasonPartlyAnnounced = "PartlyAnnounced"
	reasonOutOfPool       = "OutOfPool"
	reasonContested       = "Contested"
)

// ReportServices reports on Berth's Services.
func ReportServices(c *Cluster) Services {
	r := Services{Services: []Service{}}
	for _, svc := range c.ours() {
		r.Services = append(r.Services, serviceOf(svc))
	}
	return r
}

func serviceOf(svc *corev1.Service) Service {
	s := Service{
		Namespace: svc.Namespace, Name: svc.Name, Pools: announcedOf(svc).Pools,
		Policy: string(svc.Spec.ExternalTrafficPolicy), Announcements: announcements(svc),
	}
	for _, addr := range addressesOf(svc) {
		s.Addresses = append(s.Addresses, addr.String())
	}
	s.judge(svc)
	return s
}

// judge says how a Service is doing, in the words of its conditions.
func (s *Service) judge(svc *corev1.Service) {
	allocated := condition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	announced := condition(svc.Status.Conditions, v1beta1.ConditionAnnounced)
	switch {
	case allocated == nil:
		s.State, s.Reason, s.Message = StateError, reasonPending, "the controller has not looked at it yet"
	case !isTrue(allocated):
		s.State, s.Reason, s.Message = StateError, allocated.Reason, allocated.Message
	case announced == nil:
		s.State, s.Reason, s.Message = StateError, "NotAnnounced", "no speaker has said that it announces the address"
	case announced.Reason == reasonNoEndpoints || announced.Reason == reasonPreparing:
		s.State, s.Reason, s.Message = StateWarning, announced.Reason, announced.Message
	case !isTrue(announced):
		s.State, s.Reason, s.Message = StateError, announced.Reason, announced.Message
	case allocated.Reason == v1beta1.ReasonAddressConflict || allocated.Reason == reasonOutOfPool:
		s.State, s.Reason, s.Message = StateWarning, allocated.Reason, allocated.Message
	default:
		s.State, s.Reason, s.Message = StateOK, announced.Reason, announced.Message
	}
}

func (r Services) text(p *Printer) {
	if len(r.Services) == 0 {
		p.printf("There are no Services of type LoadBalancer that are Berth's.\n")
		return
	}
	t := table{columns: []column{
		{name: "NAMESPACE"}, {name: "NAME"}, {name: "EXTERNAL-IP"}, {name: "POOL"}, {name: "POLICY", wide: true},
		{name: "ANNOUNCED BY"}, {name: "REASON"}, {name: "MESSAGE", wide: true},
	}}
	for _, s := range r.Services {
		addresses := plain(strings.Join(s.Addresses, ","))
		if len(s.Addresses) == 0 {
			addresses = cell{text: "<pending>", state: StateError}
		}
		t.add(plain(s.Namespace), plain(s.Name), addresses, plain(strings.Join(s.Pools, ",")), plain(s.Policy),
			plain(announcers(s.Announcements)), cell{text: s.Reason, state: s.State}, plain(s.Message))
	}
	t.print(p)
}

// announcers renders who announces the addresses of a Service, each once.
func announcers(all []Announcement) string {
	var texts []string
	seen := map[string]bool{}
	for _, a := range all {
		if text := a.short(); text != "" && !seen[text] {
			seen[text] = true
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, ", ")
}
