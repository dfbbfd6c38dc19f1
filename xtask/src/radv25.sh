# Unpacks AMD's Vulkan driver of Debian's backports (Mesa 25.0) into a cache folder; the system is not changed. Without a GPU,
# with RADV_FORCE_FAMILY, it compiles kernels and reports what came out; it runs nothing. Prints the driver's description.
set -euo pipefail
folder="${XDG_CACHE_HOME:-$HOME/.cache}/barlow/radv25"
if [ ! -f "$folder/radv.json" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$folder" "$work/lists/partial" "$work/cache/archives/partial"
  # The mirror that this machine already uses.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" > "$work/sources.list"
  options=(-q -o Acquire::Retries=5 -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$work/lists"
    -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  apt-get "${options[@]}" update >&2
  (cd "$work" && apt-get "${options[@]}" download -t bookworm-backports mesa-vulkan-drivers >&2)
  dpkg-deb --fsys-tarfile "$work"/mesa-vulkan-drivers_*.deb | tar -x -C "$folder" --strip-components=4 --wildcards '*/libvulkan_radeon.so'
  test -s "$folder/libvulkan_radeon.so"
  printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s/libvulkan_radeon.so","api_version":"1.4.305"}}\n' "$folder" > "$folder/radv.json"
fi
echo "$folder/radv.json"
