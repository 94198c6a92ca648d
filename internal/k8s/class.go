package k8s

import (
	corev1 "k8s.io/api/core/v1"
)

// Class is the rule that tells which Services are Berth's.
type Class struct {
	// Name of our loadBalancerClass.
	Name string
	// Default says that Services without a loadBalancerClass are ours as well.
	Default bool
}

// Owns says whether a Service is ours: of type LoadBalancer and of our class.
// A Service of another class is another controller's, and is never touched.
func (c Class) Owns(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if svc.Spec.LoadBalancerClass == nil {
		return c.Default
	}
	return *svc.Spec.LoadBalancerClass == c.Name
}
