// What the Python bindings share: memory by its address, and structs by the names of their members.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>

namespace hrta {

using Address = uintptr_t;

template <typename T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline Address address_of(const void* memory) {
  return reinterpret_cast<Address>(memory);
}

// Wrappers of functorch, tensors whose storage was freed and members that were not set have no memory to work on.
inline void require_memory(int64_t n, std::initializer_list<Address> addresses) {
  for (Address address : addresses) {
    if (n > 0 && address == 0) throw std::runtime_error("hrta_ext: a tensor has no memory behind it");
  }
}

// A struct whose members Python sets by name, one by one or when it makes one: Struct(n=3, x=tensor.data_ptr()). What
// is not named is zero or null.
template <typename Struct>
class Named {
 public:
  Named(pybind11::module_& m, const char* name) : class_(m, name) {
    class_.def(pybind11::init([](const pybind11::kwargs& members) {
      Struct made{};
      const pybind11::object self = pybind11::cast(&made, pybind11::return_value_policy::reference);
      for (const auto& [member, value] : members) pybind11::setattr(self, member, value);
      return made;
    }));
  }

  template <typename Member>
  Named& member(const char* name, Member Struct::* member) {
    class_.def_readwrite(name, member);
    return *this;
  }

  // As an address.
  template <typename Memory>
  Named& memory(const char* name, Memory* Struct::* member) {
    class_.def_property(
        name, [member](const Struct& self) { return address_of(self.*member); },
        [member](Struct& self, Address address) { self.*member = pointer<Memory>(address); });
    return *this;
  }

  // As its number.
  template <typename Enum>
  Named& number(const char* name, Enum Struct::* member) {
    class_.def_property(
        name, [member](const Struct& self) { return static_cast<int>(self.*member); },
        [member](Struct& self, int number) { self.*member = static_cast<Enum>(number); });
    return *this;
  }

  pybind11::class_<Struct>& bound() { return class_; }

 private:
  pybind11::class_<Struct> class_;
};

// One a file: activation.cpp, gram.cpp, network.cpp, training.cpp.
void bind_activation(pybind11::module_& m);
void bind_gram(pybind11::module_& m);
void bind_network(pybind11::module_& m);
void bind_training(pybind11::module_& m);

}  // namespace hrta
