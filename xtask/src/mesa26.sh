# Unpacks the software Vulkan driver of Debian unstable (Mesa 26) with the libraries that it needs into a cache folder; the
# system is not changed. Its adapter has matrix units. Prints the path of a program that runs another with this driver and its
# C library, which is newer than Debian 12's.
set -euo pipefail
folder="${XDG_CACHE_HOME:-$HOME/.cache}/barlow/mesa26"
if [ ! -x "$folder/run" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$folder" "$work/state/lists/partial" "$work/cache/archives/partial"
  : > "$work/status"
  # The mirror that this machine already uses.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" > "$work/sources.list"
  options=(-q -o Acquire::Retries=5 -y -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$work/state"
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o APT::Install-Recommends=false
    -o Debug::NoLocking=1)
  apt-get "${options[@]}" update >&2
  apt-get "${options[@]}" --download-only install mesa-vulkan-drivers libvulkan1 libstdc++6 >&2
  for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
  libraries="$folder/root/usr/lib/x86_64-linux-gnu"
  test -s "$libraries/libvulkan_lvp.so"
  printf '{"file_format_version":"1.0.1","ICD":{"library_path":"%s/libvulkan_lvp.so","api_version":"1.4.335"}}\n' "$libraries" > "$folder/lavapipe.json"
  cat > "$work/run" <<RUN
#!/bin/sh
export VK_DRIVER_FILES="$folder/lavapipe.json" VK_ICD_FILENAMES="$folder/lavapipe.json"
exec "$folder/root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "\$@"
RUN
  chmod +x "$work/run"
  mv "$work/run" "$folder/run"
fi
echo "$folder/run"
